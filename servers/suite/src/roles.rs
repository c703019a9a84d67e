//! What a process of the suite does that is not a test itself but a test's partner.

use crate::tests;
use crate::world::World;

/// Plays a role, by its name and its argument. Returns the process's exit code.
pub fn run(world: &'static World, text: &str) -> u64 {
    let (name, argument) = text.split_once(' ').unwrap_or((text, ""));
    let role = tests::ROLES
        .iter()
        .copied()
        .flatten()
        .find(|role| role.name == name);
    match role {
        Some(role) => (role.run)(world, argument),
        None => panic!("there is no role '{name}'"),
    }
}

/// A role.
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// What it does with its argument; returns the exit code.
    pub run: fn(&'static World, &str) -> u64,
}
