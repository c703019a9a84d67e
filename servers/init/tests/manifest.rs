//! The manifest: the shipped ones are in order, and every mistake is named with its service and field.
#![cfg(not(target_env = "musl"))]

use abi::info::Quota;
use abi::{Priority, Rights};
use init::instance::expand;
use init::manifest::{Manifest, ManifestError, Placement, PortRange, Restart};
use proptest::prelude::*;

fn problem_of(text: &str) -> String {
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.problems.len(), 1, "{:?}", manifest.problems);
    manifest.problems[0].to_string()
}

/// The problem of a service `x` with these lines.
fn problem_with(lines: &str) -> String {
    problem_of(&format!("[[service]]\nname = \"x\"\n{lines}\n"))
}

#[test]
fn shipped_manifests_are_in_order_on_any_machine() {
    for (name, text) in [
        ("services", include_str!("../../../initrd/services.toml")),
        ("tests", include_str!("../../../initrd/tests.toml")),
        ("bench", include_str!("../../../initrd/bench.toml")),
    ] {
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.problems, [], "{name}");
        for cpus in [1, 2, 64] {
            let (instances, problems) = expand(&manifest, &(0..cpus).collect::<Vec<_>>());
            assert_eq!(problems, [], "{name} on {cpus} CPUs");
            assert!(!instances.is_empty());
        }
    }
}

#[test]
fn all_fields_are_read() {
    let text = r#"
        [[service]]
        name = "driver"
        binary = "drv"
        arguments = "a=1 b"
        option = "driver"
        cpu = 2
        offers = ["disk", "disk-admin"]
        public = ["disk"]
        uses = ["echo.3", "init"]
        priority = 63
        stack_kib = 64
        quota = { memory_kib = 4097, handles = 128, threads = 3 }
        log = ["write", "take"]
        system = ["query"]
        irqs = [4, 14]
        ports = [{ first = 0x1f0, count = 8 }, { first = 65535, count = 1 }]
        framebuffer = true
        initrd = true
        registry = true
        restart = "on-failure"
        backoff_ms = 250
        essential = true
        [run]
        log = ["write"]
    "#;
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.problems, []);
    let service = &manifest.services[0];
    assert_eq!(
        (service.name.as_str(), service.binary.as_str()),
        ("driver", "drv")
    );
    assert_eq!(
        (service.arguments.as_str(), service.option.as_str()),
        ("a=1 b", "driver")
    );
    assert_eq!(
        (service.placement, service.restart, service.essential),
        (Placement::Cpu(2), Restart::OnFailure, true)
    );
    assert_eq!(service.backoff.as_millis(), 250);
    let grants = &service.grants;
    assert_eq!(Some(grants.priority), Priority::new(63));
    assert_eq!(grants.stack_bytes, 64 * 1024);
    assert_eq!(
        grants.quota,
        Some(Quota {
            pages: 1025,
            handles: 128,
            threads: 3
        })
    );
    assert_eq!(grants.log, Rights::WRITE | Rights::MANAGE);
    assert_eq!(grants.system, Rights::QUERY);
    assert_eq!(grants.irqs, [4, 14]);
    assert_eq!(
        grants.ports,
        [
            PortRange {
                first: 0x1f0,
                count: 8
            },
            PortRange {
                first: 65535,
                count: 1
            }
        ]
    );
    assert!(grants.framebuffer && grants.initrd && grants.registry);
    assert_eq!(manifest.run.unwrap().log, Rights::WRITE);
}

#[test]
fn nothing_is_granted_that_is_not_said() {
    let manifest = Manifest::parse(b"[[service]]\nname = \"x\"").unwrap();
    let grants = &manifest.services[0].grants;
    assert_eq!((grants.log, grants.system), (Rights::NONE, Rights::NONE));
    assert!(grants.uses.is_empty() && grants.irqs.is_empty() && grants.ports.is_empty());
    assert!(!grants.framebuffer && !grants.initrd && !grants.registry);
    assert_eq!((grants.quota, manifest.run), (None, None));
}

#[test]
fn mistakes_are_named_with_service_and_field() {
    for (lines, problem) in [
        (
            "priority = 64",
            "service 'x': priority: must be 0 to 63, not 64",
        ),
        (
            "priority = -1",
            "service 'x': priority: must be 0 to 63, not -1",
        ),
        (
            "priority = \"high\"",
            "service 'x': priority: must be a number, not string",
        ),
        ("irqs = [16]", "service 'x': irqs: must be 0 to 15, not 16"),
        ("irqs = 4", "service 'x': irqs: must be a list, not integer"),
        (
            "ports = [{ first = 0xffff, count = 2 }]",
            "service 'x': ports: must be 1 to 1, not 2",
        ),
        (
            "ports = [{ first = 1 }]",
            "service 'x': ports: needs 'first' and 'count'",
        ),
        (
            "ports = [{ first = 1, count = 1, last = 2 }]",
            "service 'x': ports: 'last' is not a field of this table",
        ),
        (
            "ports = [0x3f8]",
            "service 'x': ports: must be a table, not integer",
        ),
        (
            "cpu = \"all\"",
            "service 'x': cpu: must be a CPU's index or \"each\"",
        ),
        (
            "restart = \"often\"",
            "service 'x': restart: must be never, on-failure or always, not 'often'",
        ),
        (
            "log = [\"writ\"]",
            "service 'x': log: 'writ' is no right of it (there are read, write, take, duplicate, transfer)",
        ),
        (
            "essential = 1",
            "service 'x': essential: must be true or false, not integer",
        ),
        (
            "colour = \"red\"",
            "service 'x': colour: is not a field of this table",
        ),
        (
            "public = [\"a\"]",
            "service 'x': public: 'a' is not among what it offers",
        ),
        (
            "offers = [\"a\", \"a\"]",
            "service 'x': offers: 'a' stands there twice",
        ),
        (
            "offers = [\"init\"]",
            "service 'x': offers: 'init' is init's own endpoint",
        ),
        (
            "offers = [\"Ä\"]",
            "service 'x': offers: 'Ä' may have lower-case letters, digits, '-' and '_' only",
        ),
        (
            "offers = [\"\"]",
            "service 'x': offers: '' must be 1 to 20 bytes long",
        ),
        (
            "uses = [\"a.b\"]",
            "service 'x': uses: 'a.b' may have lower-case letters, digits, '-' and '_' only",
        ),
        (
            "stack_kib = 0",
            "service 'x': stack_kib: must be 4 to 65536, not 0",
        ),
        (
            "binary = \"../../init\"",
            "service 'x': binary: '../../init' may have lower-case letters, digits, '-' and '_' only",
        ),
    ] {
        assert_eq!(problem_with(lines), problem);
    }
    assert_eq!(
        problem_of("[[service]]\nbinary = \"x\""),
        "service 'number 1': name: is missing"
    );
    assert_eq!(
        problem_of("service = 5"),
        "service: must be a list, not integer"
    );
    assert_eq!(
        problem_of("services = []"),
        "services: is not a field of this table"
    );
    assert_eq!(problem_of("run = 1"), "run: must be a table, not integer");
}

#[test]
fn mistakes_in_a_quota_are_named() {
    for (lines, problem) in [
        (
            "quota = 5",
            "service 'x': quota: must be a table, not integer",
        ),
        (
            "quota = { memory_kib = 64, threads = 1 }",
            "service 'x': quota: needs 'memory_kib', 'handles' and 'threads'",
        ),
        (
            "quota = { memory_kib = 0, handles = 1, threads = 1 }",
            "service 'x': quota: 'memory_kib' must be 1 to 8589934588, not 0",
        ),
        (
            "quota = { memory_kib = 64, handles = -1, threads = 1 }",
            "service 'x': quota: 'handles' must be 1 to 2147483647, not -1",
        ),
        (
            "quota = { memory_kib = 64, handles = 1, threads = 2147483648 }",
            "service 'x': quota: 'threads' must be 1 to 2147483647, not 2147483648",
        ),
        (
            "quota = { memory_kib = \"all\", handles = 1, threads = 1 }",
            "service 'x': quota: 'memory_kib' must be a number, not string",
        ),
        (
            "quota = { memory_kib = 64, handles = 1, threads = 1, irqs = 1 }",
            "service 'x': quota: 'irqs' is not a field of this table",
        ),
    ] {
        assert_eq!(problem_with(lines), problem);
    }
}

#[test]
fn one_bad_service_leaves_the_others() {
    let text = "[[service]]\nname = \"a\"\n[[service]]\nname = \"b\"\nirqs = [99]\n[[service]]\nname = \"c\"\n[[service]]\nname = \"a\"";
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    let names: Vec<_> = manifest
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(names, ["a", "c"]);
    let problems: Vec<_> = manifest.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "service 'b': irqs: must be 0 to 15, not 99",
            "service 'a': name: another service has this name"
        ]
    );
}

#[test]
fn syntax_errors_name_the_line() {
    let error = Manifest::parse(b"[[service]]\nname = \"a\"\noops\n").unwrap_err();
    assert!(
        matches!(&error, ManifestError::Syntax { line: 3, .. }),
        "{error}"
    );
    assert!(!error.to_string().contains('\n'));
    let error = Manifest::parse(b"a = 1\n\xFF").unwrap_err();
    assert_eq!(error.to_string(), "line 2: is not UTF-8");
}

#[test]
fn each_makes_an_instance_and_endpoints_for_each_cpu() {
    let text = "[[service]]\nname = \"echo\"\ncpu = \"each\"\noffers = [\"echo\"]\npublic = [\"echo\"]\n\
                [[service]]\nname = \"user\"\nuses = [\"echo.1\", \"echo.2\", \"echo\"]\n\
                [[service]]\nname = \"far\"\ncpu = 7";
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    let (instances, problems) = expand(&manifest, &[0, 1]);
    let names: Vec<_> = instances
        .iter()
        .map(|instance| (instance.name.as_str(), instance.cpu))
        .collect();
    assert_eq!(
        names,
        [("echo.0", Some(0)), ("echo.1", Some(1)), ("user", None)]
    );
    assert_eq!(instances[1].offers[0].entry, "echo");
    assert_eq!(instances[1].offers[0].endpoint, "echo.1");
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "service 'far': cpu: this machine has no CPU 7",
            "service 'user': uses: nobody offers 'echo.2'",
            "service 'user': uses: nobody offers 'echo'",
        ]
    );
}

/// What a mistake says goes to the log, where a line is one.
#[test]
fn a_mistake_is_one_line_whatever_the_file_has_in_its_names() {
    let file = b"[[service]]\nname = \"a\\n\\u001B[2J\"\n\"b\\nc\" = 1\n[d]\n[\"e\\nf\"]\n";
    let manifest = Manifest::parse(file).unwrap();
    let problems: Vec<_> = manifest.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            r"service 'a\n\u{1b}[2J': name: 'a\n\u{1b}[2J' may have lower-case letters, digits, '-' and '_' only",
            "d: is not a field of this table",
        ]
    );
    let problem = &Manifest::parse(b"[\"e\\nf\"]\n").unwrap().problems[0];
    assert_eq!(problem.to_string(), r"e\nf: is not a field of this table");
}

proptest! {
    #[test]
    fn any_bytes_give_a_manifest_or_a_named_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = Manifest::parse(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn shipped_manifest_with_any_byte_changed_never_panics(place in 0_usize..1000, byte in any::<u8>()) {
        let mut text = include_bytes!("../../../initrd/services.toml").to_vec();
        let place = place % text.len();
        text[place] = byte;
        if let Ok(manifest) = Manifest::parse(&text) {
            let _ = expand(&manifest, &[0, 1, 2]);
        }
    }
}
