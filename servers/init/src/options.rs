//! What the kernel's command line says to `init`.

/// The manifest that is read unless the command line names another.
pub const DEFAULT_MANIFEST: &str = "services";

/// The name of the manifest, without `.toml`: the last `manifest=NAME` of the command line.
///
/// # Errors
/// The name, if it is not made of letters, digits, `-` and `_`.
pub fn manifest_name(command_line: &str) -> Result<&str, &str> {
    let named = command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("manifest="))
        .next_back();
    let name = named.unwrap_or(DEFAULT_MANIFEST);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(good) {
        Err(name)
    } else {
        Ok(name)
    }
}

/// The value of the last `name=VALUE` of the command line. Without a name there is none.
pub fn value<'a>(command_line: &'a str, name: &str) -> Option<&'a str> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .rfind(|(key, _)| *key == name && !name.is_empty())
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_value_goes_to_the_end_of_its_word() {
        let line = "fpu=lazy torture=seed=5,switches=9 x =y";
        assert_eq!(value(line, "torture"), Some("seed=5,switches=9"));
        assert_eq!(value(line, "x"), None);
        assert_eq!(value(line, ""), None);
        assert_eq!(value("a=1 a=2", "a"), Some("2"));
    }

    #[test]
    fn last_manifest_option_counts() {
        assert_eq!(manifest_name(""), Ok("services"));
        assert_eq!(manifest_name("fpu=lazy manifest=tests  x"), Ok("tests"));
        assert_eq!(manifest_name("manifest=a manifest=b"), Ok("b"));
    }

    #[test]
    fn name_that_is_no_name_is_refused() {
        assert_eq!(manifest_name("manifest="), Err(""));
        assert_eq!(
            manifest_name("manifest=../etc/passwd"),
            Err("../etc/passwd")
        );
    }
}
