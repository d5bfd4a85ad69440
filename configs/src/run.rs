//! The interface of all run configurations, and the keys that they share.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::check::{CheckResult, Defect, ensure};
use crate::error::{ConfigError, Origin};

/// A configuration that can be loaded from TOML, validated, and written out in full.
pub trait RunConfig: Clone + Default + DeserializeOwned + Serialize {
    /// Returns the first invalid value, beyond what the types reject. Does not check whether paths exist.
    fn defect(&self) -> Option<Defect>;

    /// Validates a config that was built or changed in code. Loaded configs are already validated.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first defect.
    fn check(&self) -> Result<(), ConfigError> {
        self.defect().map_or(Ok(()), |defect| Err(defect.into_error(Origin::Code, None)))
    }

    /// Returns the configuration as TOML with every default written out; it loads to an equal value.
    ///
    /// # Errors
    /// [`ConfigError::Unwritable`] if an integer is above 2⁶³ − 1.
    fn resolved(&self) -> Result<String, ConfigError> {
        Ok(toml::to_string(&toml::Table::try_from(self)?)?)
    }
}

/// Checks that a run's name is the name of a single folder.
pub(crate) fn check_name(name: &str) -> CheckResult {
    let one_folder = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\']);
    ensure(one_folder, "name", format!("\"{name}\""), "a folder name: not empty, without `/`")
}

/// Serializes `None` as the empty string, so that a file can unset a value of the file that it extends, and so that the resolved
/// config shows the key.
pub(crate) mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer, T: AsRef<std::ffi::OsStr>>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        let text = value.as_ref().map(|value| value.as_ref().to_string_lossy());
        to.serialize_str(&text.unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: From<String>>(from: D) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(from)?;
        Ok((!text.is_empty()).then(|| text.into()))
    }
}
