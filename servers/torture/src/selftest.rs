//! Shows that the torture can fail: for every kind of register a thread that holds the wrong thing in it, which must be noticed and
//! named, the bit too where it is known.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use rt::{Priority, time};
use torture::damage::Damage;
use torture::plan::Use;
use torture::random::Random;

use crate::life::Place;
use crate::shop::{Shape, Shop};

/// How long a thread may take to notice.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tries all kinds of damage. Returns how many there are.
///
/// # Errors
/// The one that was not named, in words.
pub fn damage_is_named(
    shop: &Shop,
    priority: Priority,
    random: &mut Random,
) -> Result<usize, String> {
    let mut tried = 0;
    for bits32 in [false, true] {
        let shape = Shape {
            bits32,
            threads: 1,
            waker: false,
            pinned: Some(0),
            priority,
            fpu: Some(Use::Often),
        };
        let mut place = Place::new(0, shape).map_err(|error| format!("no place: {error}"))?;
        for damage in Damage::all(&shop.layout, bits32, shop.cpus) {
            one(shop, &mut place, random, &damage)
                .map_err(|reason| format!("{damage:?} (32-bit: {bits32}): {reason}"))?;
            tried += 1;
        }
    }
    Ok(tried)
}

fn one(shop: &Shop, place: &mut Place, random: &mut Random, damage: &Damage) -> Result<(), String> {
    place.begin(shop, random, Some(damage))?;
    let prepared = match damage {
        Damage::Wait => place.end_a_wait(),
        _ => Ok(()),
    };
    if let Some(step) = damage.ending() {
        place.tell(random, Some(step));
    }
    let noticed = shop.ended.wait(time::after(PATIENCE));
    if noticed.is_err() {
        place.kill();
        // Its end is all that is waited for.
        let _ = shop.ended.wait(time::after(PATIENCE));
    }
    let fault = match place.end(shop) {
        Ok(end) => return Err(format!("was not noticed ({end:?}, {prepared:?})")),
        Err(fault) => fault,
    };
    let (name, bit) = damage.name(&shop.layout);
    if fault.register != name {
        return Err(format!("'{name}' was not named: {}", fault.text));
    }
    if bit.is_some_and(|bit| bit != fault.bit) {
        return Err(format!("bit {bit:?} was not named: {}", fault.text));
    }
    Ok(())
}
