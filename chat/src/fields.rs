//! Deserialization of fields that other programs write in more than one way.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Deserializes the id of a user, which some files write as a number.
///
/// # Errors
/// If the value is neither a string nor a number.
pub fn user_id<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    from.deserialize_any(UserId)
}

/// Deserializes a value for which `null`, an empty cell of a table, stands for the default.
///
/// # Errors
/// If the value is not `null` and does not parse.
pub fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Deserializes a list of objects, or a single object as a list of one.
///
/// # Errors
/// If the value is neither, or an object does not parse.
pub fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(OneOrMore(PhantomData))
}

/// Deserializes a list as [`one_or_more`] does; `null` is an empty list.
///
/// # Errors
/// Same as [`one_or_more`].
pub fn none_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(NoneOrMore(PhantomData))
}

struct NoneOrMore<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NoneOrMore<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, a list of objects or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Vec<T>, A::Error> {
        OneOrMore::<T>(PhantomData).visit_map(fields)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, objects: A) -> Result<Vec<T>, A::Error> {
        OneOrMore::<T>(PhantomData).visit_seq(objects)
    }
}

struct OneOrMore<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Vec<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, objects: A) -> Result<Vec<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(objects))
    }
}

struct UserId;

impl Visitor<'_> for UserId {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a user id: a string or a number")
    }

    fn visit_str<E: Error>(self, id: &str) -> Result<String, E> {
        Ok(id.to_owned())
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<String, E> {
        Ok(id.to_string())
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<String, E> {
        Ok(id.to_string())
    }

    // A column of integers with empty cells becomes one of floats: 7 is written as 7.0, which Display shortens to 7.
    fn visit_f64<E: Error>(self, id: f64) -> Result<String, E> {
        Ok(id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use crate::RlRow;

    fn row(uid: &str, record: &str) -> Result<RlRow, String> {
        let row = format!(r#"{{"uid": {uid}, "history": [], "mid_position": 1, "mid_record": {record}}}"#);
        serde_json::from_str(&row).map_err(|e| e.to_string())
    }

    #[test]
    fn a_user_id_is_a_string_or_a_number() {
        for (written, id) in [("\"u7\"", "u7"), ("7", "7"), ("-7", "-7"), ("7.0", "7"), ("114821", "114821")] {
            assert_eq!(row(written, "{}").unwrap().uid, id);
        }
        for written in ["null", "true", "[7]"] {
            let refused = row(written, "{}").unwrap_err();
            assert!(refused.contains("expected a user id: a string or a number"), "{written}: {refused}");
        }
    }

    #[test]
    fn records_may_be_null() {
        assert_eq!(row("1", "null").unwrap().mid_record, Default::default());
        let record = row("1", r#"{"logprob1": -0.5, "logprob2": null}"#).unwrap().mid_record;
        assert_eq!((record.logprob1, record.logprob2, record.signal), (-0.5, 0.0, 0.0));
        assert!(row("1", "3").is_err());
    }
}
