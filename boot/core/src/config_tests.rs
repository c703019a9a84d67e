//! Tests of the configuration's parser.

use super::*;
use crate::path::Volume;
use proptest::prelude::*;

const OURS: &str = include_str!("../../../limine.cfg");

fn entry(text: &str) -> Result<Entry, Fault> {
    Config::parse(text.as_bytes())?.default_entry()
}

#[test]
fn the_projects_own_file_is_read_without_a_warning() {
    let config = Config::parse(OURS.as_bytes()).unwrap();
    assert_eq!(config.timeout, Timeout::Seconds(0));
    assert_eq!(config.warnings, Vec::<String>::new());
    let entry = config.default_entry().unwrap();
    assert_eq!(entry.name, "Switchyard");
    assert_eq!(entry.kernel.path, "/switchyard/kernel");
    let modules: Vec<_> = entry
        .modules
        .iter()
        .map(|m| (m.path.path.as_str(), m.string.as_str()))
        .collect();
    assert_eq!(
        modules,
        [
            ("/switchyard/init", "init"),
            ("/switchyard/initrd.tar", "initrd")
        ]
    );
}

#[test]
fn old_and_new_option_names_mean_the_same() {
    let new = entry(
        "/a\nprotocol: limine\npath: boot():/k\ncmdline: x y\nmodule_path: boot():/m\nmodule_string: s\n",
    );
    let old = entry(
        "/a\nPROTOCOL: limine\nkernel_path: boot():/k\nkernel_cmdline: x y\nmodule_path: boot():/m\nmodule_cmdline: s\n",
    );
    assert_eq!(new, old);
    assert_eq!(new.unwrap().cmdline, "x y");
}

#[test]
fn indentation_carriage_returns_and_comments_are_no_matter() {
    let e =
        entry("\r\n  # hello\r\n  /a b\r\n\tprotocol:   limine\r\n    path: boot():/k\r\n# end")
            .unwrap();
    assert_eq!((e.name.as_str(), e.kernel.path.as_str()), ("a b", "/k"));
}

#[test]
fn a_value_may_hold_colons_and_hashes() {
    let e = entry("/a\nprotocol: limine\npath: boot():/k\ncmdline: a:b #c\n").unwrap();
    assert_eq!(e.cmdline, "a:b #c");
}

#[test]
fn default_entry_counts_what_a_menu_shows() {
    let body = "\nprotocol: limine\npath: boot():/";
    let file = format!(
        "default_entry: DEF\n/+open\n//one{body}1\n//two{body}2\n/shut\n//three{body}3\n/four{body}4\n"
    );
    let pick = |n: &str| entry(&file.replace("DEF", n)).map(|e| e.name);
    assert_eq!(pick("2"), Ok("one".into()));
    assert_eq!(pick("5"), Ok("four".into()));
    assert_eq!(pick("shut/three"), Ok("three".into()));
    assert_eq!(
        pick("1"),
        Err(Fault::EntryIsFolder {
            name: "open".into()
        })
    );
    assert_eq!(
        pick("6"),
        Err(Fault::NoSuchEntry {
            wanted: "6".into(),
            count: 5
        })
    );
    assert_eq!(
        pick("0"),
        Err(Fault::NoSuchEntry {
            wanted: "0".into(),
            count: 5
        })
    );
    assert_eq!(
        pick("nope"),
        Err(Fault::NoSuchEntry {
            wanted: "nope".into(),
            count: 5
        })
    );
}

#[test]
fn macros_are_expanded_even_if_defined_later() {
    let e = entry(
        "/a\nprotocol: limine\npath: boot():/${DIR}/k\ncmdline: ${ARCH} ${NONE}!\n${DIR}=sys\n",
    )
    .unwrap();
    assert_eq!(e.kernel.path, "/sys/k");
    assert_eq!(e.cmdline, "x86-64 !");
}

#[test]
fn macro_bombs_and_open_macros_are_refused() {
    let big = "x".repeat(4000);
    let bomb = format!("${{A}}={big}\n{}\n", "${A}".repeat(1000));
    assert_eq!(
        Config::parse(bomb.as_bytes()).unwrap_err(),
        Fault::MacroOverflow
    );
    assert_eq!(
        Config::parse(b"\na: ${b").unwrap_err(),
        Fault::UnclosedMacro { line: 2 }
    );
}

#[test]
fn unknown_options_warn_and_known_useless_ones_do_not() {
    let c = Config::parse(b"wallpaper: x\nwallpapr: x\n/a\nprotocl: limine\n").unwrap();
    assert_eq!(
        c.warnings,
        [
            "line 2: unknown option 'wallpapr' ignored",
            "line 4: unknown option 'protocl' ignored"
        ]
    );
}

#[test]
fn bad_values_are_named_with_their_line() {
    let option = |text: &str| match entry(text) {
        Err(Fault::BadOption { line, key, .. }) => (line, key),
        other => panic!("{other:?}"),
    };
    assert_eq!(option("timeout: soon"), (1, "timeout".into()));
    assert_eq!(option("\nquiet: maybe"), (2, "quiet".into()));
    let head = "/a\nprotocol: limine\npath: boot():/k\n";
    assert_eq!(
        option(&format!("{head}resolution: 12")),
        (4, "resolution".into())
    );
    assert_eq!(
        option(&format!("{head}resolution: 0x1")),
        (4, "resolution".into())
    );
    assert_eq!(
        option(&format!("{head}resolution: 1x2x3x4")),
        (4, "resolution".into())
    );
    assert_eq!(
        option(&format!("{head}paging_mode: 3level")),
        (4, "paging_mode".into())
    );
    assert_eq!(
        option(&format!("{head}module_path: /m")),
        (4, "module_path".into())
    );
}

#[test]
fn incomplete_entries_are_refused_by_name() {
    assert_eq!(entry("timeout: 0"), Err(Fault::NoEntries));
    assert_eq!(
        entry("/a\npath: boot():/k"),
        Err(Fault::MissingOption {
            entry: "a".into(),
            key: "protocol"
        })
    );
    assert_eq!(
        entry("/a\nprotocol: limine"),
        Err(Fault::MissingOption {
            entry: "a".into(),
            key: "path"
        })
    );
    assert_eq!(
        entry("/a\nprotocol: linux\npath: boot():/k"),
        Err(Fault::WrongProtocol {
            entry: "a".into(),
            protocol: "linux".into()
        })
    );
    assert_eq!(
        entry("/a\nprotocol: limine\npath: boot():/k\nmodule_string: s"),
        Err(Fault::StringWithoutModule { line: 4 })
    );
}

#[test]
fn time_to_read_a_message_is_known_in_a_broken_file() {
    for (text, tenths) in [
        (&b""[..], MESSAGE_TENTHS),
        (b"timeout: 00x\n#timeout: 0\ntimeout: 5", MESSAGE_TENTHS),
        (b"quiet: no", MESSAGE_TENTHS),
        (b"\xff\n nonsense\r\n Timeout:  0\r\n", HURRIED_TENTHS),
        (b"timeout: 0\n\xff\nQuiet: yes\r\n", 0),
    ] {
        assert_eq!(Config::message_tenths(text), tenths, "{text:?}");
    }
}

#[test]
fn timeouts_are_seconds_with_or_without_decimals() {
    let timeout = |text: &str| {
        Config::parse(format!("timeout: {text}").as_bytes())
            .map(|c| c.timeout)
            .ok()
    };
    assert_eq!(timeout("7"), Some(Timeout::Seconds(7)));
    assert_eq!(timeout("0.25"), Some(Timeout::Seconds(1)));
    assert_eq!(timeout("3.00"), Some(Timeout::Seconds(3)));
    assert_eq!(timeout("No"), Some(Timeout::Never));
    for bad in ["", "-1", "1.", ".5", "1.x", "99999999999", "4294967295.5"] {
        assert_eq!(timeout(bad), None, "{bad}");
    }
}

#[test]
fn stray_lines_and_orphans_are_refused() {
    assert!(matches!(
        Config::parse(b"hello"),
        Err(Fault::BadLine { line: 1, .. })
    ));
    assert!(matches!(
        Config::parse(b"//x"),
        Err(Fault::ParentlessEntry { line: 1, .. })
    ));
    assert!(matches!(Config::parse(b"/ "), Err(Fault::BadLine { .. })));
    assert_eq!(Config::parse(b"\xff\xfe").unwrap_err(), Fault::NotText);
}

#[test]
fn paths_on_other_volumes_are_kept() {
    let e = entry("/a\nprotocol: limine\npath: boot(3):/k").unwrap();
    assert_eq!(e.kernel.volume, Volume::Partition(3));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(config) = Config::parse(&bytes) {
            let _ = config.default_entry();
        }
    }

    #[test]
    fn random_config_words_never_panic(
        words in proptest::collection::vec(prop::sample::select(alloc::vec![
            "/", "//", "a", "+", "\n", "protocol: limine", "path: ", "boot():/k", "module_path: ", "module_string: ",
            "default_entry: ", "1", "2", "${", "}", "=", "timeout: ", "resolution: ", "x", " ", "\r", ":", "#", "é",
        ]), 0..60)
    ) {
        if let Ok(config) = Config::parse(words.concat().as_bytes()) {
            let _ = config.default_entry();
        }
    }
}
