//! Carrying a command out.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use core::time::Duration;

use abi::info::PowerAction;

use crate::command::{COMMANDS, Command, Listing, Share};
use crate::show;
use crate::table::{Align, Table};
use crate::units;
use crate::watch;
use crate::world::World;

/// A list by its numbers: the kernel has it in the order in which its memory lies.
fn sorted<T, K: Ord>(mut list: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    list.sort_by_key(key);
    list
}

/// Carries a command out; an error is a line for the user.
///
/// # Errors
/// The world's.
pub fn run(command: &Command, world: &mut impl World) -> Result<(), String> {
    let text = match command {
        Command::Help => help(),
        Command::Cpus => show::cpus(&world.cpus()?),
        Command::Ps(Listing::Threads) => {
            show::threads(&sorted(world.threads()?, |one| (one.process, one.thread)))
        }
        Command::Ps(Listing::Processes) => {
            let processes = sorted(world.processes()?, |one| one.id);
            show::processes(&processes, &world.endpoints()?)
        }
        Command::Ps(Listing::Endpoints) => {
            let endpoints = sorted(world.endpoints()?, |one| one.id);
            show::endpoints(&endpoints, &world.processes()?, &world.threads()?)
        }
        Command::Top(share, milliseconds) => {
            let before = (world.cpus()?, world.threads()?);
            world.pause(Duration::from_millis(u64::from(*milliseconds)));
            let after = (world.cpus()?, world.threads()?);
            match share {
                Share::Threads => watch::top(&before, &after),
                Share::Processes => watch::top_processes(&before, &after, &world.processes()?),
            }
        }
        Command::Trace(milliseconds) => {
            let trace = world.trace(Duration::from_millis(u64::from(*milliseconds)))?;
            watch::trace(&trace, world.machine()?.tsc_hz)
        }
        Command::Mem => show::memory(&world.memory()?),
        Command::Ping(rounds) => return ping(*rounds, world),
        Command::Ls => ls(world)?,
        Command::Cat(name) => match world.file(name)? {
            Some(contents) => show::file(name, &contents),
            None => {
                return Err(format!(
                    "cat: no file '{}' ('ls' lists them)",
                    show::printable(name)
                ));
            }
        },
        Command::Uptime => show::uptime(world.now(), &world.machine()?),
        Command::Run(name, argument) => {
            format!("{}\n", show::printable(&world.run(name, argument)?))
        }
        Command::Services => lines(world.services()?),
        Command::Restart(name) => return world.restart(name),
        Command::Names => lines(world.names()?),
        Command::Log => show::file("log", String::from_utf8_lossy(&world.log()?).as_bytes()),
        Command::Clear => {
            world.clear();
            return Ok(());
        }
        Command::Echo(text) => format!("{text}\n"),
        Command::PowerOff => {
            world.write("powering off\n");
            return world.power(PowerAction::Off);
        }
        Command::Reboot => {
            world.write("restarting\n");
            return world.power(PowerAction::Restart);
        }
    };
    world.write(&text);
    Ok(())
}

fn lines(list: impl IntoIterator<Item = String>) -> String {
    let mut text = String::new();
    for line in list {
        text.push_str(&show::printable(&line));
        text.push('\n');
    }
    text
}

fn help() -> String {
    let mut table = Table::new(&[
        ("COMMAND", Align::Left),
        ("ARGUMENTS", Align::Left),
        ("", Align::Left),
    ]);
    for (name, arguments, what) in COMMANDS {
        table.row([name, arguments, what].map(String::from));
    }
    table.finish()
}

fn ls(world: &impl World) -> Result<String, String> {
    let mut files = world.files()?;
    files.sort();
    let mut table = Table::new(&[("SIZE", Align::Right), ("FILE", Align::Left)]);
    for (name, bytes) in files {
        table.row([units::bytes(bytes as u64), show::printable(&name)]);
    }
    Ok(table.finish())
}

/// Pings CPU after CPU, and shows the figures of all together.
fn ping(rounds: u32, world: &mut impl World) -> Result<(), String> {
    let cpus = world.cpus()?;
    let mut table = Table::new(&[
        ("CPU", Align::Right),
        ("ROUND TRIPS", Align::Right),
        ("TIME", Align::Right),
        ("PER ROUND TRIP", Align::Right),
    ]);
    let mut failed = String::new();
    for cpu in &cpus {
        match world.ping(cpu.index, rounds) {
            Ok(time) => table.row([
                cpu.index.to_string(),
                rounds.to_string(),
                units::duration(time),
                units::time(time.as_secs_f64() * 1e9 / f64::from(rounds)),
            ]),
            Err(error) => {
                let error = show::printable(&error);
                // Writing to a String can't fail.
                let _ = writeln!(failed, "ping: CPU {}: {error}", cpu.index);
            }
        }
    }
    world.write(&format!("{}{failed}", table.finish()));
    Ok(())
}
