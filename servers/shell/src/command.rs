//! Commands: what a line says.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Round trips of `ping` unless said.
pub const PING_ROUNDS: u32 = 1000;
/// Most round trips of `ping`.
pub const MOST_PING_ROUNDS: u32 = 1_000_000;

/// Milliseconds of `top`, and of `trace`, unless said.
pub const TOP_MS: u32 = 500;
/// See [`TOP_MS`].
pub const TRACE_MS: u32 = 10;
/// Most milliseconds of both.
pub const MOST_MS: u32 = 10_000;

/// What `ps` lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// Threads.
    Threads,
    /// Processes.
    Processes,
    /// Endpoints, and who waits there.
    Endpoints,
}

/// Whom `top` shows beside the CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// Threads, each by itself.
    Threads,
    /// Processes, each with all of its threads.
    Processes,
}

/// A command with its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Lists the commands.
    Help,
    /// Lists the CPUs.
    Cpus,
    /// Lists the threads, the processes, or the endpoints.
    Ps(Listing),
    /// Shows who has the CPUs for so many milliseconds.
    Top(Share, u32),
    /// Shows what the CPUs do for so many milliseconds.
    Trace(u32),
    /// Shows the memory in use.
    Mem,
    /// Times round trips to the echo server of each CPU.
    Ping(u32),
    /// Lists the files of the initrd.
    Ls,
    /// Shows a file.
    Cat(String),
    /// Tells how long the machine has run.
    Uptime,
    /// Starts a program and waits for its end: its name and argument string.
    Run(String, String),
    /// Lists the services.
    Services,
    /// Ends a service, which is then started again.
    Restart(String),
    /// Lists the registered names.
    Names,
    /// Shows the kernel's log.
    Log,
    /// Clears the screen.
    Clear,
    /// Shows its argument.
    Echo(String),
    /// Powers off.
    PowerOff,
    /// Restarts the machine.
    Reboot,
}

/// All commands: name, arguments, what it does.
pub const COMMANDS: [(&str, &str, &str); 19] = [
    ("help", "", "list the commands"),
    ("cpus", "", "CPUs: time busy, switches, interrupts, FPU"),
    (
        "ps",
        "[-p | -e]",
        "threads: CPU, state, priority, CPU time; -p: processes, -e: endpoints and who waits there",
    ),
    (
        "top",
        "[-p] [MS]",
        "who has the CPUs, for MS milliseconds (500): threads; -p: processes, and their memory",
    ),
    (
        "trace",
        "[MS]",
        "what the CPUs do, one by one, for MS milliseconds (10)",
    ),
    ("mem", "", "memory in use"),
    (
        "ping",
        "[N]",
        "time N round trips to the echo server on each CPU (1000)",
    ),
    ("ls", "", "list the files of the boot archive"),
    ("cat", "FILE", "show a file of the boot archive"),
    ("uptime", "", "time since boot"),
    (
        "run",
        "NAME [ARGS]",
        "start a program of the boot archive and wait for its end",
    ),
    ("services", "", "services and how they stand"),
    (
        "restart",
        "SERVICE",
        "end a service and have it started again",
    ),
    ("names", "", "servers that can be looked up by name"),
    ("log", "", "show the kernel's log"),
    ("clear", "", "clear the screen"),
    ("echo", "TEXT", "show the text"),
    ("reboot", "", "restart the machine"),
    ("poweroff", "", "power the machine off"),
];

/// The command of a line; `None` for an empty one.
///
/// # Errors
/// A line for the user that says what is wrong.
pub fn parse(line: &str) -> Result<Option<Command>, String> {
    let line = line.trim();
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let alone = |command: Command| {
        if rest.is_empty() {
            Ok(Some(command))
        } else {
            Err(format!("{name}: takes no arguments"))
        }
    };
    let milliseconds = |said: &str, unless_said: u32| match said {
        "" => Ok(unless_said),
        _ => match said.parse() {
            Ok(count @ 1..=MOST_MS) => Ok(count),
            _ => Err(format!(
                "{name}: '{}' is not a number from 1 to {MOST_MS}",
                short(said)
            )),
        },
    };
    match name {
        "" => Ok(None),
        "help" | "?" => alone(Command::Help),
        "cpus" => alone(Command::Cpus),
        "ps" => match rest {
            "" => Ok(Some(Command::Ps(Listing::Threads))),
            "-p" => Ok(Some(Command::Ps(Listing::Processes))),
            "-e" => Ok(Some(Command::Ps(Listing::Endpoints))),
            _ => Err(format!(
                "ps: '{}' is neither -p (processes) nor -e (endpoints)",
                short(rest)
            )),
        },
        "top" => {
            let (share, said) = top_of(rest);
            Ok(Some(Command::Top(share, milliseconds(said, TOP_MS)?)))
        }
        "trace" => Ok(Some(Command::Trace(milliseconds(rest, TRACE_MS)?))),
        "mem" => alone(Command::Mem),
        "ls" => alone(Command::Ls),
        "uptime" => alone(Command::Uptime),
        "services" => alone(Command::Services),
        "names" => alone(Command::Names),
        "log" => alone(Command::Log),
        "clear" => alone(Command::Clear),
        "poweroff" => alone(Command::PowerOff),
        "reboot" => alone(Command::Reboot),
        "echo" => Ok(Some(Command::Echo(rest.to_owned()))),
        "ping" if rest.is_empty() => Ok(Some(Command::Ping(PING_ROUNDS))),
        "ping" => match rest.parse() {
            Ok(rounds @ 1..=MOST_PING_ROUNDS) => Ok(Some(Command::Ping(rounds))),
            _ => Err(format!(
                "ping: '{}' is not a number from 1 to {MOST_PING_ROUNDS}",
                short(rest)
            )),
        },
        "cat" if rest.is_empty() => Err("cat: which file? ('ls' lists them)".to_owned()),
        "cat" => Ok(Some(Command::Cat(rest.to_owned()))),
        "restart" if rest.is_empty() => {
            Err("restart: which service? ('services' lists them)".to_owned())
        }
        "restart" => Ok(Some(Command::Restart(rest.to_owned()))),
        "run" if rest.is_empty() => {
            Err("run: which program? ('ls' lists them, as bin/NAME)".to_owned())
        }
        "run" => {
            let (program, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let program = program.strip_prefix("bin/").unwrap_or(program);
            Ok(Some(Command::Run(
                program.to_owned(),
                argument.trim().to_owned(),
            )))
        }
        unknown => Err(match nearest(unknown) {
            Some(near) => format!(
                "unknown command '{}'; did you mean '{near}'? ('help' lists all)",
                short(unknown)
            ),
            None => format!("unknown command '{}' ('help' lists all)", short(unknown)),
        }),
    }
}

/// What the arguments of `top` say: whom it shows, and what is left of them.
fn top_of(rest: &str) -> (Share, &str) {
    match rest.strip_prefix("-p") {
        Some(more) if more.is_empty() || more.starts_with(char::is_whitespace) => {
            (Share::Processes, more.trim_start())
        }
        _ => (Share::Threads, rest),
    }
}

/// The beginning of a text of any length.
fn short(text: &str) -> String {
    const MOST: usize = 40;
    let mut start: String = text.chars().take(MOST).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start
}

/// The command that was probably meant.
fn nearest(word: &str) -> Option<&'static str> {
    let length = word.chars().count();
    let near = COMMANDS
        .iter()
        .map(|(name, ..)| (distance(word, name), *name))
        .min()?;
    // Up to a third may be wrong, and something must be right.
    let allowed = (length.max(near.1.len()) / 3).max(1);
    let begins = COMMANDS
        .iter()
        .map(|(name, ..)| *name)
        .find(|name| length >= 2 && name.starts_with(word));
    begins.or((near.0 <= allowed && near.0 < length).then_some(near.1))
}

/// How many insertions, deletions, changes and swaps of neighbours make one word of the other ("optimal string
/// alignment"). A long word is taken as far from everything.
fn distance(left: &str, right: &str) -> usize {
    const LONGEST: usize = 32;
    let left: Vec<char> = left.chars().take(LONGEST + 1).collect();
    let right: Vec<char> = right.chars().collect();
    if left.len() > LONGEST {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in 0..=left.len() {
        for j in 0..=right.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(left[i - 1] != right[j - 1]);
                let mut least = (rows[i - 1][j] + 1)
                    .min(rows[i][j - 1] + 1)
                    .min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_command_is_known() {
        for (name, arguments, _) in COMMANDS {
            let line = if arguments.is_empty() {
                name.to_owned()
            } else {
                format!("{name} 5 x")
            };
            match parse(&line) {
                Ok(Some(_)) => {}
                Err(error) => assert!(error.contains("'5 x'"), "{error}"),
                Ok(None) => panic!("{name} is nothing"),
            }
        }
    }

    #[test]
    fn arguments_are_taken_apart() {
        assert_eq!(parse("  "), Ok(None));
        assert_eq!(parse(" ps  "), Ok(Some(Command::Ps(Listing::Threads))));
        assert_eq!(parse("ps -p"), Ok(Some(Command::Ps(Listing::Processes))));
        assert_eq!(parse("ps  -e"), Ok(Some(Command::Ps(Listing::Endpoints))));
        let top = |share, milliseconds| Ok(Some(Command::Top(share, milliseconds)));
        assert_eq!(parse("top"), top(Share::Threads, 500));
        assert_eq!(parse("top 20"), top(Share::Threads, 20));
        assert_eq!(parse("top -p"), top(Share::Processes, 500));
        assert_eq!(parse("top  -p  20 "), top(Share::Processes, 20));
        assert_eq!(parse("trace 7"), Ok(Some(Command::Trace(7))));
        assert_eq!(parse("ping"), Ok(Some(Command::Ping(1000))));
        assert_eq!(parse("ping 7"), Ok(Some(Command::Ping(7))));
        assert_eq!(parse("echo  a  b "), Ok(Some(Command::Echo("a  b".into()))));
        assert_eq!(
            parse("run bin/suite quick=1 x"),
            Ok(Some(Command::Run("suite".into(), "quick=1 x".into())))
        );
        assert_eq!(parse("cat motd"), Ok(Some(Command::Cat("motd".into()))));
    }

    #[test]
    fn mistakes_get_a_helpful_line() {
        let error = |line: &str| parse(line).unwrap_err();
        assert_eq!(
            error("pss"),
            "unknown command 'pss'; did you mean 'ps'? ('help' lists all)"
        );
        assert_eq!(
            error("cpsu"),
            "unknown command 'cpsu'; did you mean 'cpus'? ('help' lists all)"
        );
        assert_eq!(
            error("power"),
            "unknown command 'power'; did you mean 'poweroff'? ('help' lists all)"
        );
        assert_eq!(
            error("rebot"),
            "unknown command 'rebot'; did you mean 'reboot'? ('help' lists all)"
        );
        assert_eq!(error("xyzzy"), "unknown command 'xyzzy' ('help' lists all)");
        assert_eq!(
            error(&"é".repeat(500)),
            format!("unknown command '{}...' ('help' lists all)", "é".repeat(40))
        );
        assert_eq!(
            error("ping 0"),
            "ping: '0' is not a number from 1 to 1000000"
        );
        assert_eq!(
            error("ping -5"),
            "ping: '-5' is not a number from 1 to 1000000"
        );
        assert_eq!(
            error("ping 99999999999999999999"),
            "ping: '99999999999999999999' is not a number from 1 to 1000000"
        );
        assert_eq!(
            error("trace 10001"),
            "trace: '10001' is not a number from 1 to 10000"
        );
        assert_eq!(error("top x"), "top: 'x' is not a number from 1 to 10000");
        assert_eq!(
            error("top -p 0"),
            "top: '0' is not a number from 1 to 10000"
        );
        assert_eq!(
            error("top -px"),
            "top: '-px' is not a number from 1 to 10000"
        );
        assert_eq!(
            error("ps aux"),
            "ps: 'aux' is neither -p (processes) nor -e (endpoints)"
        );
        assert_eq!(error("cat"), "cat: which file? ('ls' lists them)");
        assert_eq!(
            error("run"),
            "run: which program? ('ls' lists them, as bin/NAME)"
        );
    }
}
