//! Limine paths: `resource(argument):/path`, with an optional `#hash` (Limine CONFIG, Paths).

use crate::error::Fault;
use crate::hash::{self, HASH_BYTES};
use alloc::string::{String, ToString};

/// Which volume a path is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// `boot()`: the one the configuration was read from.
    Config,
    /// `boot(N)`: partition N, from 1, of the drive the configuration was read from.
    Partition(u32),
    /// `guid(G)` or `uuid(G)`: the partition with this GPT identifier, in lower case.
    Guid(String),
    /// `fslabel(L)`: the volume whose file system has this label.
    Label(String),
}

/// A file's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath {
    /// The volume.
    pub volume: Volume,
    /// The path within it, with its leading slash.
    pub path: String,
    /// The hash its contents must have.
    pub hash: Option<[u8; HASH_BYTES]>,
}

impl FilePath {
    /// Reads a path as the configuration has it.
    ///
    /// # Errors
    /// [`Fault::BadPath`], [`Fault::BadHash`] or [`Fault::UnsupportedResource`].
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let (resource, rest) = text.split_once('(').ok_or(Fault::BadPath)?;
        let (argument, path) = rest.split_once("):").ok_or(Fault::BadPath)?;
        let (path, hash) = match path.split_once('#') {
            Some((path, digits)) => (path, Some(hash::parse(digits)?)),
            None => (path, None),
        };
        if path.len() < 2 || !path.starts_with('/') || path.contains(['\0', '\\']) {
            return Err(Fault::BadPath);
        }
        let volume = match (resource.to_ascii_lowercase().as_str(), argument) {
            ("boot", "") => Volume::Config,
            ("boot", n) => match n.parse() {
                Ok(n) if n > 0 => Volume::Partition(n),
                _ => return Err(Fault::BadPath),
            },
            ("guid" | "uuid", guid) if !guid.is_empty() => Volume::Guid(guid.to_ascii_lowercase()),
            ("fslabel", label) if !label.is_empty() => Volume::Label(label.to_string()),
            ("guid" | "uuid" | "fslabel" | "", _) => return Err(Fault::BadPath),
            _ => return Err(Fault::UnsupportedResource(resource.to_string())),
        };
        Ok(Self {
            volume,
            path: path.to_string(),
            hash,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn boot_path_is_on_the_volume_of_the_configuration() {
        let p = FilePath::parse("boot():/switchyard/kernel").unwrap();
        assert_eq!(p.volume, Volume::Config);
        assert_eq!(p.path, "/switchyard/kernel");
        assert_eq!(p.hash, None);
    }

    #[test]
    fn other_volumes_are_told_apart() {
        let volume = |t| FilePath::parse(t).map(|p| p.volume);
        assert_eq!(volume("boot(2):/k"), Ok(Volume::Partition(2)));
        assert_eq!(volume("UUID(AB-cd):/k"), Ok(Volume::Guid("ab-cd".into())));
        assert_eq!(volume("fslabel(EFI):/k"), Ok(Volume::Label("EFI".into())));
        assert_eq!(
            volume("tftp():/k"),
            Err(Fault::UnsupportedResource("tftp".into()))
        );
    }

    #[test]
    fn malformed_paths_are_refused() {
        for text in [
            "",
            "/k",
            "boot()/k",
            "boot():k",
            "boot(:/k",
            "boot(0):/k",
            "boot(x):/k",
            "boot():/",
            "guid():/k",
            "boot():/a\\b",
        ] {
            assert_eq!(FilePath::parse(text), Err(Fault::BadPath), "{text}");
        }
    }

    #[test]
    fn hash_suffix_is_read_and_a_short_one_refused() {
        let digits = "0f".repeat(64);
        let p = FilePath::parse(&format!("boot():/k#{digits}")).unwrap();
        assert_eq!(p.hash, Some([0x0f; 64]));
        assert_eq!(FilePath::parse("boot():/k#0f"), Err(Fault::BadHash));
    }
}
