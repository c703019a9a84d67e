//! A manifest table's fields, taken out one by one, so that each mistake can be named, leftovers included.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use toml::{Table, Value};

/// What is wrong with a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    pub(crate) problem: String,
}

/// A field's problem.
pub(crate) fn problem(field: &str, problem: impl Into<String>) -> FieldError {
    FieldError {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

/// The fields of a table that were not taken yet.
pub(crate) struct Fields(Table);

impl Fields {
    pub(crate) const fn new(table: Table) -> Fields {
        Fields(table)
    }

    /// All fields must have been taken.
    pub(crate) fn finish(self) -> Result<(), FieldError> {
        match self.0.into_iter().next() {
            Some((field, _)) => Err(problem(&field, "is not a field of this table")),
            None => Ok(()),
        }
    }

    pub(crate) fn string(&mut self, field: &str) -> Result<Option<String>, FieldError> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(kind(field, "a string", &other)),
        }
    }

    pub(crate) fn boolean(&mut self, field: &str) -> Result<bool, FieldError> {
        match self.0.remove(field) {
            None => Ok(false),
            Some(Value::Boolean(value)) => Ok(value),
            Some(other) => Err(kind(field, "true or false", &other)),
        }
    }

    /// A number from `least` to `most`.
    pub(crate) fn number(
        &mut self,
        field: &str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, FieldError> {
        self.0
            .remove(field)
            .map(|value| number(field, &value, least, most))
            .transpose()
    }

    /// A list; a missing one is empty.
    pub(crate) fn list(&mut self, field: &str) -> Result<Vec<Value>, FieldError> {
        match self.0.remove(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(kind(field, "a list", &other)),
        }
    }

    pub(crate) fn strings(&mut self, field: &str) -> Result<Vec<String>, FieldError> {
        let list = self.list(field)?;
        list.into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(kind(field, "a list of strings", &other)),
            })
            .collect()
    }

    /// Any value.
    pub(crate) fn value(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }
}

/// A value as a number from `least` to `most`.
pub(crate) fn number(field: &str, value: &Value, least: u64, most: u64) -> Result<u64, FieldError> {
    let Value::Integer(number) = value else {
        return Err(kind(field, "a number", value));
    };
    match u64::try_from(*number) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(problem(
            field,
            format!("must be {least} to {most}, not {number}"),
        )),
    }
}

/// A value of the wrong kind.
pub(crate) fn kind(field: &str, wanted: &str, got: &Value) -> FieldError {
    problem(field, format!("must be {wanted}, not {}", got.type_str()))
}
