//! Where this process stands among its peers, as torchrun, Slurm or `xplore launch` tell it.

use std::env;

/// A process among its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// This process, from 0.
    pub rank: usize,
    /// Processes in all.
    pub world_size: usize,
    /// This process among those of its node.
    pub local_rank: usize,
    /// Processes of its node.
    pub local_world_size: usize,
    /// Where the ranks meet.
    pub master: Option<Master>,
}

/// The store at which ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Name or address of the machine.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether somebody serves the store already (torchrun's agent, `xplore launch`); otherwise rank 0 does.
    pub served: bool,
}

/// An environment that does not say clearly where this process stands, or asks for what a command does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A variable that is no number.
    #[error("environment variable {name} is `{value}`; expected a whole number, as torchrun sets it (or unset it)")]
    NotANumber {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A rank outside the world.
    #[error("RANK is {rank} but WORLD_SIZE is {world_size}; ranks count from 0 to WORLD_SIZE - 1")]
    Outside {
        /// The rank.
        rank: usize,
        /// Processes in all.
        world_size: usize,
    },
    /// Several processes that do not know where to meet.
    #[error(
        "WORLD_SIZE is {world_size} but {missing} is not set; start the ranks with xplore launch, torchrun --no-python or the scripts in scripts/slurm"
    )]
    NoMaster {
        /// Processes in all.
        world_size: usize,
        /// The variable.
        missing: &'static str,
    },
    /// Several processes of a command that runs as one.
    #[error("WORLD_SIZE is {0}, but this command runs as a single process; only sft and rl run on several")]
    NotAlone(usize),
}

type Variables<'a> = dyn Fn(&'static str) -> Option<String> + 'a;

impl Place {
    /// A process without peers.
    pub fn alone() -> Self {
        Self { rank: 0, world_size: 1, local_rank: 0, local_world_size: 1, master: None }
    }

    /// Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or else
    /// Slurm's of a step that `srun` began (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, with MASTER_ADDR and MASTER_PORT); a
    /// process without them is alone.
    ///
    /// # Errors
    /// [`PlaceError`] if they are no numbers, contradict each other or leave out where to meet.
    pub fn from_environment() -> Result<Self, PlaceError> {
        Self::from_variables(&|name| env::var(name).ok())
    }

    fn from_variables(variable: &Variables<'_>) -> Result<Self, PlaceError> {
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
            return Err(PlaceError::Outside { rank, world_size });
        }
        let local_world_size = number(variable, names[3], world_size)?.max(local_rank + 1);
        let master = if world_size > 1 { Some(master(variable, world_size)?) } else { None };
        Ok(Self { rank, world_size, local_rank, local_world_size, master })
    }

    /// The place, if this process is the only one.
    ///
    /// # Errors
    /// [`PlaceError::NotAlone`] if there are others.
    pub fn only(self) -> Result<Self, PlaceError> {
        if self.world_size == 1 { Ok(self) } else { Err(PlaceError::NotAlone(self.world_size)) }
    }
}

fn number(variable: &Variables<'_>, name: &'static str, otherwise: usize) -> Result<usize, PlaceError> {
    match variable(name) {
        None => Ok(otherwise),
        Some(value) => value.trim().parse().map_err(|_| PlaceError::NotANumber { name, value }),
    }
}

fn master(variable: &Variables<'_>, world_size: usize) -> Result<Master, PlaceError> {
    let host = variable("MASTER_ADDR").ok_or(PlaceError::NoMaster { world_size, missing: "MASTER_ADDR" })?;
    let port = variable("MASTER_PORT").ok_or(PlaceError::NoMaster { world_size, missing: "MASTER_PORT" })?;
    let port = port.trim().parse().map_err(|_| PlaceError::NotANumber { name: "MASTER_PORT", value: port })?;
    // As torchrun tells its workers that its agent serves the store.
    let served = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True" || v == "true" || v == "1");
    Ok(Master { host, port, served })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Place, PlaceError> {
        Place::from_variables(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn a_process_without_variables_is_alone() {
        assert_eq!(place(&[]).and_then(Place::only), Ok(Place::alone()));
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
        let master = |served| Some(Master { host: "node0".into(), port: 29500, served });
        let four = Place { rank: 3, world_size: 4, local_rank: 1, local_world_size: 2, master: master(false) };
        assert_eq!(place(&variables), Ok(four.clone()));
        assert_eq!(four.clone().only(), Err(PlaceError::NotAlone(4)));
        variables.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        assert_eq!(place(&variables), Ok(Place { master: master(true), ..four }));
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
        // In the job's own script, outside srun, there is one process.
        assert_eq!(place(&step[1..]), Ok(Place::alone()));
    }

    #[test]
    fn contradictions_are_named() {
        assert_eq!(place(&[("RANK", "2"), ("WORLD_SIZE", "2")]), Err(PlaceError::Outside { rank: 2, world_size: 2 }));
        assert!(place(&[("RANK", "two")]).unwrap_err().to_string().contains("RANK is `two`"));
        let unmet = place(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap_err();
        assert_eq!(unmet, PlaceError::NoMaster { world_size: 2, missing: "MASTER_ADDR" });
    }
}
