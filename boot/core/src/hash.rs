//! The hash a configured path may carry: BLAKE2b with 64 bytes (Limine CONFIG, Paths).

use crate::error::Fault;
use blake2::{Blake2b512, Digest};

/// Bytes in a BLAKE2b hash as paths carry it.
pub const HASH_BYTES: usize = 64;

/// Reads 128 hexadecimal digits.
///
/// # Errors
/// [`Fault::BadHash`] for anything else.
pub fn parse(text: &str) -> Result<[u8; HASH_BYTES], Fault> {
    let mut hash = [0; HASH_BYTES];
    if text.len() != 2 * HASH_BYTES {
        return Err(Fault::BadHash);
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(Fault::BadHash);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(hash)
}

/// Holds `contents` against `wanted`.
///
/// # Errors
/// [`Fault::HashMismatch`] if they differ.
pub fn check(contents: &[u8], wanted: &[u8; HASH_BYTES]) -> Result<(), Fault> {
    if Blake2b512::digest(contents)[..] == wanted[..] {
        Ok(())
    } else {
        Err(Fault::HashMismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE2b-512 of "abc" (RFC 7693, appendix A).
    const ABC: &str = "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1\
                       7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923";

    #[test]
    fn published_hash_matches_and_another_does_not() {
        let hash = parse(ABC).unwrap();
        assert_eq!(check(b"abc", &hash), Ok(()));
        assert_eq!(check(b"abd", &hash), Err(Fault::HashMismatch));
    }

    #[test]
    fn short_or_foreign_digits_are_refused() {
        assert_eq!(parse("ab"), Err(Fault::BadHash));
        assert_eq!(parse(&ABC.replace('b', "x")), Err(Fault::BadHash));
    }
}
