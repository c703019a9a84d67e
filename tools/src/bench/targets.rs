//! What the figures are held against: what others take in the same QEMU, what must be held here, and what is aimed at.
//!
//! The same table is in `docs/src/benchmarks.md`; a host test holds the two together.

/// One figure's bar. What was not measured of a peer is an empty word.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The figure's name.
    pub figure: &'static str,
    /// seL4 16 (development version), built for several CPUs.
    pub sel4_smp: &'static str,
    /// The same for one CPU.
    pub sel4_one: &'static str,
    /// Linux 6.1, by its best way.
    pub linux: &'static str,
    /// What the operation must not exceed, in instructions, with FSGSBASE.
    pub must: u64,
    /// What it is to come to.
    pub aim: u64,
}

/// All that have one, in the order of the table.
#[rustfmt::skip]
pub const TARGETS: [Target; 17] = [
    row("syscall_null",               "138",               "89",         "325",     45,     36),
    row("call_reply_cross_space_6w",  "623 (four words)",  "454 (four words)", "7747 (futex)", 340, 260),
    row("call_reply_cross_space",     "577",               "408",        "",        320,    240),
    row("call_reply_same_space",      "539",               "404",        "5800",    290,    220),
    row("call_reply_256b",            "1827 (ten words)",  "1593",       "17958",   550,    450),
    row("call_reply_4k",              "",                  "",           "16411",   1100,   950),
    row("call_reply_handle",          "slow path",         "slow path",  "",        600,    450),
    row("signal_idle",                "427",               "353",        "",        80,     60),
    row("signal_wait_pingpong",       "2474",              "1992",       "8100 (eventfd)", 500, 430),
    row("fault_round_trip",           "1539",              "1303",       "4075",    500,    420),
    row("map_unmap_4k",               "1488",              "1289",       "21017",   600,    450),
    row("thread_create",              "8689",              "8141",       "66607",   1200,   900),
    row("thread_create_cold",         "",                  "",           "",        6000,   6000),
    row("process_create",             "",                  "",           "225690 (fork), 318895 (vfork)", 16000, 12000),
    row("yield_same_space",           "706",               "",           "3000",    240,    200),
    row("yield_cross_space",          "740",               "520",        "3000",    270,    220),
    row("yield_cross_space_fpu_both", "",                  "",           "",        330,    280),
];

const fn row(
    figure: &'static str,
    sel4_smp: &'static str,
    sel4_one: &'static str,
    linux: &'static str,
    must: u64,
    aim: u64,
) -> Target {
    Target {
        figure,
        sel4_smp,
        sel4_one,
        linux,
        must,
        aim,
    }
}

impl Target {
    /// The figure's bar, if it has one.
    pub fn of(figure: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.figure == figure)
    }

    /// What a number of instructions comes to, in a word.
    pub const fn judge(&self, instructions: u64) -> &'static str {
        if instructions <= self.aim {
            "aim"
        } else if instructions <= self.must {
            "held"
        } else {
            "MISSED"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_judged_by_its_bar() {
        let null = Target::of("syscall_null").unwrap();
        for (instructions, word) in [(36, "aim"), (37, "held"), (45, "held"), (46, "MISSED")] {
            assert_eq!(null.judge(instructions), word);
        }
        assert!(Target::of("none").is_none());
    }

    #[test]
    fn the_book_has_the_same_table() {
        let book = include_str!("../../../docs/src/benchmarks.md");
        for target in &TARGETS {
            let Target {
                figure,
                sel4_smp,
                sel4_one,
                linux,
                must,
                aim,
            } = target;
            assert!(aim <= must, "{figure}");
            let row =
                format!("| `{figure}` | {sel4_smp} | {sel4_one} | {linux} | {must} | {aim} |");
            assert!(book.contains(&row), "benchmarks.md lacks: {row}");
        }
    }
}
