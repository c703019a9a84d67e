//! The kernel's own file, its command line, and the modules.

use crate::features::{text, told};
use crate::report::Report;
use crate::requests;
use crate::walk::{byte, word};

/// First module: this text.
const ONE: &[u8] = b"first module\n";
/// Second module: this many bytes, byte `n` being `n * 7`.
const TWO: u64 = 5000;

/// Checks all of them.
pub fn check(report: &mut Report) {
    let mut buffer = [0; 256];
    let Some(at) = requests::CMDLINE.response() else {
        return report.check("command_line", false, format_args!("no response"));
    };
    let cmdline = word(at + 8);
    let words = text(cmdline, &mut buffer);
    report.check(
        "command_line",
        words.starts_with("check "),
        format_args!("'{words}'"),
    );

    if let Some(at) = requests::FILE.response() {
        let file = word(at + 8);
        let (address, size) = (word(file + 8), word(file + 16));
        let magic = word(address) & 0xffff_ffff;
        report.equal("executable_file_is_elf", magic, 0x464c_457f);
        report.check(
            "executable_file_has_a_size",
            size > 4096,
            format_args!("{size}"),
        );
        report.check(
            "executable_file_is_page_aligned",
            address.is_multiple_of(4096),
            format_args!("{address:#x}"),
        );
        report.equal("its_string_is_the_command_line", word(file + 32), cmdline);
        let mut buffer = [0; 256];
        let path = text(word(file + 24), &mut buffer);
        report.check(
            "its_path_has_a_slash",
            path.starts_with('/'),
            format_args!("'{path}'"),
        );
    } else {
        report.check("executable_file", false, format_args!("no response"));
    }
    modules(report);
}

fn modules(report: &mut Report) {
    if !told("modules=yes") {
        let silent = requests::MODULES.response().is_none();
        return report.check(
            "no_modules_no_response",
            silent,
            format_args!("there is one"),
        );
    }
    let Some(at) = requests::MODULES.response() else {
        return report.check("modules", false, format_args!("no response"));
    };
    let (count, array) = (word(at + 8), word(at + 16));
    report.equal("two_modules", count, 2);
    if count != 2 {
        return;
    }
    let [one, two] = [word(array), word(array + 8)];
    let mut buffer = [0; 256];
    let string = text(word(one + 32), &mut buffer);
    report.check(
        "first_module_string",
        string == "one",
        format_args!("'{string}'"),
    );
    let path = text(word(one + 24), &mut buffer);
    report.check(
        "first_module_path",
        path == "/foreign/one.txt",
        format_args!("'{path}'"),
    );
    report.equal("first_module_size", word(one + 16), ONE.len() as u64);
    let same = ONE
        .iter()
        .enumerate()
        .all(|(n, b)| byte(word(one + 8) + n as u64) == *b);
    report.check("first_module_contents", same, format_args!("they differ"));

    let string = text(word(two + 32), &mut buffer);
    report.check(
        "second_module_string",
        string == "two words",
        format_args!("'{string}'"),
    );
    report.equal("second_module_size", word(two + 16), TWO);
    let same = (0..TWO).all(|n| byte(word(two + 8) + n) == (n * 7) as u8);
    report.check("second_module_contents", same, format_args!("they differ"));
    let pages = [one, two].map(|m| word(m + 8) / 4096);
    let apart = pages[0] != pages[1]
        && pages[0] != pages[1] + 1
        && [one, two].iter().all(|m| word(m + 8).is_multiple_of(4096));
    report.check(
        "modules_have_pages_of_their_own",
        apart,
        format_args!("{pages:x?}"),
    );
}
