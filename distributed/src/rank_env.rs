//! The rank of this process, from the environment that torchrun, Slurm, or `xplore launch` sets.

use std::env;

/// The rank of a process and the size of its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankEnv {
    /// Rank of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub world_size: usize,
    /// Rank of this process on its node.
    pub local_rank: usize,
    /// Number of processes on the node.
    pub local_world_size: usize,
    /// The rendezvous of the ranks; absent for a single process.
    pub rendezvous: Option<Rendezvous>,
}

/// The store at which the ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host name or address of the machine.
    pub host: String,
    /// Port of the store.
    pub port: u16,
    /// Whether another process already serves the store (torchrun's agent, `xplore launch`); otherwise rank 0 serves it.
    pub served: bool,
}

/// An environment that is invalid or unsupported by the command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankEnvError {
    /// A variable is not a number.
    #[error("environment variable {name} is `{value}`; expected a whole number as set by torchrun; fix or unset it")]
    NotANumber {
        /// Name of the variable.
        name: &'static str,
        /// Value of the variable.
        value: String,
    },
    /// The rank is out of range.
    #[error("RANK is {rank} but WORLD_SIZE is {world_size}; expected a rank from 0 to WORLD_SIZE - 1")]
    Outside {
        /// The rank.
        rank: usize,
        /// Number of processes.
        world_size: usize,
    },
    /// Several processes without a rendezvous.
    #[error(
        "WORLD_SIZE is {world_size} but {missing} is not set; start the ranks with xplore launch, torchrun \
         --no-python or the scripts in scripts/slurm"
    )]
    NoMaster {
        /// Number of processes.
        world_size: usize,
        /// Name of the missing variable.
        missing: &'static str,
    },
    /// Several processes of a command that runs as one.
    #[error("WORLD_SIZE is {0}, but this command runs as a single process; only sft and rl support several")]
    NotAlone(usize),
}

type Variables<'a> = dyn Fn(&'static str) -> Option<String> + 'a;

impl RankEnv {
    /// Returns the environment of a single process.
    pub fn single() -> Self {
        Self { rank: 0, world_size: 1, local_rank: 0, local_world_size: 1, rendezvous: None }
    }

    /// Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or else Slurm's of a
    /// step that `srun` started (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, with MASTER_ADDR and MASTER_PORT). Without them,
    /// returns the environment of a single process.
    ///
    /// # Errors
    /// [`RankEnvError`] if the variables are not numbers, contradict each other, or lack the rendezvous.
    pub fn from_env() -> Result<Self, RankEnvError> {
        Self::from_variables(&|name| env::var(name).ok())
    }

    fn from_variables(variable: &Variables<'_>) -> Result<Self, RankEnvError> {
        let by_slurm = variable("RANK").is_none() && variable("SLURM_STEP_ID").is_some();
        let names = if by_slurm {
            ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"]
        } else {
            ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]
        };
        let [rank, world_size, local_rank] =
            [(names[0], 0), (names[1], 1), (names[2], 0)].map(|(name, otherwise)| number(variable, name, otherwise));
        let (rank, world_size, local_rank) = (rank?, world_size?, local_rank?);
        if rank >= world_size {
            return Err(RankEnvError::Outside { rank, world_size });
        }
        let local_world_size = number(variable, names[3], world_size)?.max(local_rank + 1);
        let rendezvous = if world_size > 1 { Some(rendezvous(variable, world_size)?) } else { None };
        Ok(Self { rank, world_size, local_rank, local_world_size, rendezvous })
    }

    /// Returns the environment if this is the only process.
    ///
    /// # Errors
    /// [`RankEnvError::NotAlone`] if there are others.
    pub fn only(self) -> Result<Self, RankEnvError> {
        if self.world_size == 1 { Ok(self) } else { Err(RankEnvError::NotAlone(self.world_size)) }
    }
}

fn number(variable: &Variables<'_>, name: &'static str, otherwise: usize) -> Result<usize, RankEnvError> {
    match variable(name) {
        None => Ok(otherwise),
        Some(value) => value.trim().parse().map_err(|_| RankEnvError::NotANumber { name, value }),
    }
}

fn rendezvous(variable: &Variables<'_>, world_size: usize) -> Result<Rendezvous, RankEnvError> {
    let host = variable("MASTER_ADDR").ok_or(RankEnvError::NoMaster { world_size, missing: "MASTER_ADDR" })?;
    let port = variable("MASTER_PORT").ok_or(RankEnvError::NoMaster { world_size, missing: "MASTER_PORT" })?;
    let port = port.trim().parse().map_err(|_| RankEnvError::NotANumber { name: "MASTER_PORT", value: port })?;
    // torchrun sets this variable to tell its workers that its agent serves the store.
    let served = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True" || v == "true" || v == "1");
    Ok(Rendezvous { host, port, served })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<RankEnv, RankEnvError> {
        RankEnv::from_variables(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn a_process_without_variables_is_alone() {
        assert_eq!(place(&[]).and_then(RankEnv::only), Ok(RankEnv::single()));
    }

    #[test]
    fn torchruns_variables_are_read() {
        let mut variables = vec![
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "29500"),
        ];
        let rendezvous = |served| Some(Rendezvous { host: "node0".into(), port: 29500, served });
        let four =
            RankEnv { rank: 3, world_size: 4, local_rank: 1, local_world_size: 2, rendezvous: rendezvous(false) };
        assert_eq!(place(&variables), Ok(four.clone()));
        assert_eq!(four.clone().only(), Err(RankEnvError::NotAlone(4)));
        variables.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        assert_eq!(place(&variables), Ok(RankEnv { rendezvous: rendezvous(true), ..four }));
    }

    #[test]
    fn slurms_variables_are_read_where_srun_began_the_process() {
        let step = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_LOCALID", "5"),
            ("SLURM_NTASKS_PER_NODE", "8"),
            ("MASTER_ADDR", "n1"),
            ("MASTER_PORT", "1234"),
        ];
        let found = place(&step).unwrap();
        assert_eq!((found.rank, found.world_size, found.local_rank, found.local_world_size), (5, 16, 5, 8));
        // The job's own script, outside srun, is a single process.
        assert_eq!(place(&step[1..]), Ok(RankEnv::single()));
    }

    #[test]
    fn contradictions_are_named() {
        assert_eq!(place(&[("RANK", "2"), ("WORLD_SIZE", "2")]), Err(RankEnvError::Outside { rank: 2, world_size: 2 }));
        assert!(place(&[("RANK", "two")]).unwrap_err().to_string().contains("RANK is `two`"));
        let unmet = place(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap_err();
        assert_eq!(unmet, RankEnvError::NoMaster { world_size: 2, missing: "MASTER_ADDR" });
    }
}
