//! The sleep types of soft off, without an AML interpreter.
//!
//! The values that switch a PC off stand in a package named `_S5_` in the AML code of the DSDT (ACPI 6.5 §7.4.2). In
//! practice it is always a constant, `Name (_S5_, Package {a, b, ...})`, so it is looked for by its bytes: the name
//! operator, perhaps a root prefix, the name, the package operator. Both numbers must be constants of 0 to 7, which is
//! what the register's field holds; a look-alike in other data fails that and the search goes on. Firmware that
//! computes the package is not served, and gets a named error.

use super::acpi::AcpiError;

/// AML encodings (ACPI 6.5 §20.2 and §20.3).
mod aml {
    pub const ZERO: u8 = 0x00;
    pub const ONE: u8 = 0x01;
    pub const NAME: u8 = 0x08;
    pub const BYTE: u8 = 0x0A;
    pub const WORD: u8 = 0x0B;
    pub const DWORD: u8 = 0x0C;
    pub const PACKAGE: u8 = 0x12;
    pub const ROOT: u8 = b'\\';
}

/// The field's largest value: it has three bits.
const LARGEST: u32 = 7;

/// What goes into the SLP_TYP fields to enter a sleep state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SleepTypes {
    /// For PM1a control.
    pub a: u8,
    /// For PM1b control.
    pub b: u8,
}

/// Looks through AML code for the `_S5_` package.
///
/// # Errors
/// [`AcpiError::NoSleepState`] if there is none, [`AcpiError::BadSleepState`] if there is a package of that name, but no
/// two sleep types could be read from any.
pub fn find(aml: &[u8]) -> Result<SleepTypes, AcpiError> {
    let mut result = Err(AcpiError::NoSleepState);
    for (position, window) in aml.windows(5).enumerate() {
        if window != [b'_', b'S', b'5', b'_', aml::PACKAGE] {
            continue;
        }
        let before = &aml[..position];
        if !matches!(before, [.., aml::NAME] | [.., aml::NAME, aml::ROOT]) {
            continue;
        }
        match package(&aml[position + 5..]) {
            Some(types) => return Ok(types),
            None => result = Err(AcpiError::BadSleepState),
        }
    }
    result
}

/// Reads the first two elements of a package, from behind its operator on.
fn package(body: &[u8]) -> Option<SleepTypes> {
    // The length's first byte tells in its top two bits how many more there are; it counts from itself on.
    let lead = *body.first()?;
    let more = usize::from(lead >> 6);
    let length = if more == 0 {
        usize::from(lead & 0x3F)
    } else {
        let low = usize::from(lead & 0x0F);
        body.get(1..=more)?
            .iter()
            .rev()
            .fold(0, |length, byte| length << 8 | usize::from(*byte))
            << 4
            | low
    };
    let body = body.get(1 + more..length)?;
    let (&elements, body) = body.split_first()?;
    if elements < 2 {
        return None;
    }
    let (a, body) = constant(body)?;
    let (b, _) = constant(body)?;
    Some(SleepTypes { a, b })
}

/// Reads one small constant and returns what follows it.
fn constant(body: &[u8]) -> Option<(u8, &[u8])> {
    let (&operator, rest) = body.split_first()?;
    let bytes = match operator {
        aml::ZERO => return Some((0, rest)),
        aml::ONE => return Some((1, rest)),
        aml::BYTE => 1,
        aml::WORD => 2,
        aml::DWORD => 4,
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(bytes)?;
    let value = value
        .iter()
        .rev()
        .fold(0u32, |value, byte| value << 8 | u32::from(*byte));
    (value <= LARGEST).then_some((value as u8, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `Name (_S5_, Package (4) {5, 5, 0, 0})` as compilers write it, between other code.
    const USUAL: &[u8] = b"\x10\x20\x08_S5_\x12\x08\x04\x0A\x05\x0A\x05\x00\x00\xA4\x00";

    #[test]
    fn the_usual_package_is_found_between_other_code() {
        assert_eq!(find(USUAL), Ok(SleepTypes { a: 5, b: 5 }));
    }

    #[test]
    fn root_prefix_and_short_constants_are_read() {
        let code = b"\x08\\_S5_\x12\x06\x04\x00\x01\x00\x00";
        assert_eq!(find(code), Ok(SleepTypes { a: 0, b: 1 }));
    }

    #[test]
    fn word_and_dword_constants_are_read() {
        let code = b"\x08_S5_\x12\x0A\x02\x0B\x07\x00\x0C\x03\x00\x00\x00";
        assert_eq!(find(code), Ok(SleepTypes { a: 7, b: 3 }));
    }

    #[test]
    fn a_long_package_length_is_read() {
        // Two length bytes: 0x12 bytes in all.
        let code = b"\x08_S5_\x12\x42\x01\x04\x0A\x06\x0A\x02\x00\x00\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(find(code), Ok(SleepTypes { a: 6, b: 2 }));
    }

    #[test]
    fn code_without_the_name_is_refused_by_name() {
        assert_eq!(
            find(b"\x08_S4_\x12\x06\x04\x00\x01\x00\x00"),
            Err(AcpiError::NoSleepState)
        );
        assert_eq!(find(b""), Err(AcpiError::NoSleepState));
        assert_eq!(find(b"_S5_"), Err(AcpiError::NoSleepState));
    }

    #[test]
    fn a_mere_mention_of_the_name_is_passed_over() {
        let code = b"\x0D_S5_\x12\x06\x04\x07\x07\x00\x00\x00\x08_S5_\x12\x06\x04\x01\x01\x00\x00";
        assert_eq!(find(code), Ok(SleepTypes { a: 1, b: 1 }));
    }

    #[test]
    fn every_truncation_is_refused_or_read_right() {
        let full = find(USUAL);
        for length in 0..USUAL.len() {
            match find(&USUAL[..length]) {
                Ok(types) => assert_eq!(Ok(types), full),
                Err(error) => assert!(matches!(
                    error,
                    AcpiError::NoSleepState | AcpiError::BadSleepState
                )),
            }
        }
    }

    #[test]
    fn sleep_types_past_three_bits_are_refused() {
        let code = b"\x08_S5_\x12\x08\x04\x0A\x08\x0A\x05\x00\x00";
        assert_eq!(find(code), Err(AcpiError::BadSleepState));
    }

    #[test]
    fn a_package_of_one_is_refused() {
        assert_eq!(
            find(b"\x08_S5_\x12\x04\x01\x0A\x05"),
            Err(AcpiError::BadSleepState)
        );
    }

    #[test]
    fn a_computed_element_is_refused() {
        let code = b"\x08_S5_\x12\x0A\x02ABCD\x0A\x05\x00\x00";
        assert_eq!(find(code), Err(AcpiError::BadSleepState));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_search(prefix in any::<Vec<u8>>(), suffix in any::<Vec<u8>>()) {
            let mut code = prefix;
            code.extend_from_slice(b"\x08_S5_\x12");
            code.extend_from_slice(&suffix);
            if let Ok(types) = find(&code) {
                prop_assert!(types.a <= 7 && types.b <= 7);
            }
        }
    }
}
