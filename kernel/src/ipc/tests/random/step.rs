//! What random programs do: the steps and how often each is chosen.

use abi::Error;
use abi::ipc_area::MAX_HANDLES;
use proptest::prelude::*;

use super::{ENDPOINTS, NOTIFICATIONS};

/// What a thread does, or what is done to it.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Call(Sending),
    Send(Sending),
    Recv {
        endpoint: usize,
        accept: u32,
        now: bool,
    },
    Reply {
        pick: usize,
        carry: Vec<(usize, bool)>,
        bytes: usize,
    },
    Close {
        pick: usize,
    },
    Wait {
        notification: usize,
        now: bool,
    },
    Signal {
        notification: usize,
        bits: u64,
    },
    Bind {
        notification: usize,
    },
    Unbind,
    Sleep,
    Cancel {
        error: Error,
    },
    Leave,
}

/// A message on its way into an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) endpoint: usize,
    pub(super) badge: u64,
    /// Picks from the table, and whether each is moved.
    pub(super) carry: Vec<(usize, bool)>,
    pub(super) bytes: usize,
    /// What a call takes with its answer.
    pub(super) accept: u32,
    pub(super) now: bool,
}
fn carry() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::collection::vec((0..12usize, any::<bool>()), 0..=MAX_HANDLES),
    ]
}

fn sending() -> impl Strategy<Value = Sending> {
    let bytes = prop_oneof![Just(0), Just(40)];
    (
        0..ENDPOINTS,
        0..1000u64,
        carry(),
        bytes,
        0..=4u32,
        prop::bool::weighted(0.15),
    )
        .prop_map(|(endpoint, badge, carry, bytes, accept, now)| Sending {
            endpoint,
            badge,
            carry,
            bytes,
            accept,
            now,
        })
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let now = || prop::bool::weighted(0.15);
    let notification = || 0..NOTIFICATIONS;
    let error = prop_oneof![Just(Error::TimedOut), Just(Error::Cancelled)];
    prop_oneof![
        8 => sending().prop_map(Op::Call),
        5 => sending().prop_map(Op::Send),
        12 => (0..ENDPOINTS, 0..=4u32, now()).prop_map(|(endpoint, accept, now)| Op::Recv { endpoint, accept, now }),
        8 => (0..8usize, carry(), prop_oneof![Just(0usize), Just(33)])
            .prop_map(|(pick, carry, bytes)| Op::Reply { pick, carry, bytes }),
        2 => (0..12usize).prop_map(|pick| Op::Close { pick }),
        3 => (notification(), now()).prop_map(|(notification, now)| Op::Wait { notification, now }),
        5 => (notification(), 0..16u64).prop_map(|(notification, bits)| Op::Signal { notification, bits }),
        3 => notification().prop_map(|notification| Op::Bind { notification }),
        1 => Just(Op::Unbind),
        1 => Just(Op::Sleep),
        5 => error.prop_map(|error| Op::Cancel { error }),
        1 => Just(Op::Leave),
    ]
}
