//! Where this process stands among its peers, as torchrun and Slurm tell it.
//!
//! Training runs as a single process so far: [`Place::alone`] is what the trainer asks for, so that a launch of several
//! ranks fails at once and in words, instead of training the same model several times over.

use std::env;

/// A process among its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// This process, from 0.
    pub rank: usize,
    /// Processes in all.
    pub world_size: usize,
    /// This process among those of its node.
    pub local_rank: usize,
}

/// An environment that does not say clearly where this process stands, or asks for what is not there yet.
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
    /// Several processes.
    #[error("WORLD_SIZE is {0}: training on several processes is not supported yet; start a single process")]
    NotAlone(usize),
}

impl Place {
    /// Reads RANK, WORLD_SIZE and LOCAL_RANK; a process without them is alone.
    ///
    /// # Errors
    /// [`PlaceError`] if they are no numbers or contradict each other.
    pub fn from_environment() -> Result<Self, PlaceError> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, PlaceError> {
        let number = |name, otherwise| match variable(name) {
            None => Ok(otherwise),
            Some(value) => value.trim().parse().map_err(|_| PlaceError::NotANumber { name, value }),
        };
        let place = Self {
            rank: number("RANK", 0)?,
            world_size: number("WORLD_SIZE", 1)?,
            local_rank: number("LOCAL_RANK", 0)?,
        };
        if place.rank >= place.world_size {
            return Err(PlaceError::Outside { rank: place.rank, world_size: place.world_size });
        }
        Ok(place)
    }

    /// The place, if this process is the only one.
    ///
    /// # Errors
    /// [`PlaceError::NotAlone`] if there are others.
    pub fn alone(self) -> Result<Self, PlaceError> {
        if self.world_size == 1 { Ok(self) } else { Err(PlaceError::NotAlone(self.world_size)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Place, PlaceError> {
        Place::from_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn a_process_without_variables_is_alone() {
        assert_eq!(place(&[]).and_then(Place::alone), Ok(Place { rank: 0, world_size: 1, local_rank: 0 }));
    }

    #[test]
    fn torchruns_variables_are_read() {
        let four = place(&[("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")]);
        assert_eq!(four, Ok(Place { rank: 3, world_size: 4, local_rank: 1 }));
        assert_eq!(four.and_then(Place::alone), Err(PlaceError::NotAlone(4)));
    }

    #[test]
    fn contradictions_are_named() {
        assert_eq!(place(&[("RANK", "2"), ("WORLD_SIZE", "2")]), Err(PlaceError::Outside { rank: 2, world_size: 2 }));
        assert!(place(&[("RANK", "two")]).unwrap_err().to_string().contains("RANK is `two`"));
    }
}
