//! What a thread lends to the queues: the trait that thread references implement, and the links in the thread.
//!
//! The links are relaxed atomics although all but the inbox's are touched under exclusion. That costs nothing
//! on x86-64 (a relaxed load or store is a plain `mov`), makes [`Links`] `Sync` without a word of `unsafe`,
//! and turns a broken exclusion into a wrong list instead of undefined behaviour.

use core::marker::PhantomData;
use core::num::NonZeroUsize;

use crate::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, const_unless_loom};

/// A reference to a thread, as small as a pointer.
///
/// The kernel implements it for its pointer to a slab-allocated thread. Two references are equal if they name
/// the same thread.
///
/// ```
/// use core::num::NonZeroUsize;
/// use sched::{Links, Node};
///
/// struct Thread { links: Links<ThreadRef> }
///
/// #[derive(Clone, Copy)]
/// struct ThreadRef(&'static Thread);
///
/// impl PartialEq for ThreadRef {
///     fn eq(&self, other: &Self) -> bool { core::ptr::eq(self.0, other.0) }
/// }
/// impl Eq for ThreadRef {}
///
/// impl Node for ThreadRef {
///     fn links(&self) -> &Links<Self> { &self.0.links }
///     fn into_word(self) -> NonZeroUsize {
///         NonZeroUsize::from(core::ptr::NonNull::from(self.0).expose_provenance())
///     }
///     fn from_word(word: NonZeroUsize) -> Self {
///         // SAFETY: the word came from `into_word` (the trait's contract), so it is the exposed address of
///         // a `&'static Thread`.
///         ThreadRef(unsafe { &*core::ptr::with_exposed_provenance(word.get()) })
///     }
/// }
/// ```
pub trait Node: Copy + Eq + Send {
    /// The links inside the thread. It is the same place for equal references.
    fn links(&self) -> &Links<Self>;

    /// The reference as a word: its address. It must be above 1 (the inbox uses 0 and 1 as marks).
    fn into_word(self) -> NonZeroUsize;

    /// The reference that gave this word.
    ///
    /// The queues call it only with words that [`Node::into_word`] gave and that are still in the queue; an
    /// implementation with an unsafe cast inside relies on that, and nobody else may call it.
    fn from_word(word: NonZeroUsize) -> Self;
}

/// The links of one thread: part of the thread, opaque to everyone but the queues.
///
/// One thread can be at the same time in one [`RunQueue`](crate::RunQueue), [`WaitQueue`](crate::WaitQueue) or [`List`](crate::List), in
/// one [`Inbox`](crate::Inbox) and in one [`TimerQueue`](crate::TimerQueue).
pub struct Links<T> {
    pub(crate) list: ListLinks<T>,
    pub(crate) level: LevelLinks<T>,
    pub(crate) inbox: InboxLinks<T>,
    pub(crate) timer: TimerLinks<T>,
}

impl<T: Node> Links<T> {
    const_unless_loom! {
        /// Links of a thread that is in no queue.
        pub fn new() -> Links<T> {
            Links {
                list: ListLinks::new(),
                level: LevelLinks::new(),
                inbox: InboxLinks::new(),
                timer: TimerLinks::new(),
            }
        }
    }

    /// Whether the thread is in a run queue, a wait queue or a list.
    pub fn is_listed(&self) -> bool {
        self.list.place.load(Ordering::Relaxed) != place::NOWHERE
    }

    /// Whether the thread is in a run queue.
    pub fn is_ready(&self) -> bool {
        self.list.place.load(Ordering::Relaxed) < place::LEVELS
    }

    /// Whether the thread has a deadline in a timer queue.
    pub fn is_timed(&self) -> bool {
        self.timer.rank.load(Ordering::Relaxed) != 0
    }

    /// Whether the thread is in an inbox.
    pub fn is_in_inbox(&self) -> bool {
        self.inbox.pending.load(Ordering::Acquire)
    }
}

impl<T: Node> Default for Links<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A place for an optional thread reference.
///
/// The `fn` in the marker keeps `Link` `Send` and `Sync` whatever `T` is; [`Node`] demands `Send`, so handing
/// a reference to another CPU through a link is sound.
pub(crate) struct Link<T> {
    word: AtomicUsize,
    marker: PhantomData<fn(T) -> T>,
}

impl<T: Node> Link<T> {
    const_unless_loom! {
        pub(crate) fn new() -> Link<T> {
            Link { word: AtomicUsize::new(0), marker: PhantomData }
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<T> {
        NonZeroUsize::new(self.word.load(Ordering::Relaxed)).map(T::from_word)
    }

    #[inline]
    pub(crate) fn set(&self, thread: Option<T>) {
        self.word
            .store(thread.map_or(0, |t| t.into_word().get()), Ordering::Relaxed);
    }
}

/// What [`ListLinks::place`] says.
pub(crate) mod place {
    use crate::priority::EffectivePriority;

    /// In no list and no run queue.
    pub(crate) const NOWHERE: u32 = u32::MAX;
    /// In a list that is no level of a run queue.
    pub(crate) const PLAIN_LIST: u32 = u32::MAX - 1;
    /// In the lowest level of a wait queue.
    const WAITING: u32 = LEVELS;
    /// One more than the last level of a run queue. A level is its own number, so that no arithmetic is in the way of a yield.
    pub(crate) const LEVELS: u32 = EffectivePriority::LEVELS as u32;

    /// In this level of a wait queue: the low six bits are the level's, as in a run queue.
    #[inline]
    pub(crate) const fn waiting_at(priority: EffectivePriority) -> u32 {
        WAITING + priority.index() as u32
    }

    /// Whether a place is in a wait queue.
    #[inline]
    pub(crate) const fn is_waiting(place: u32) -> bool {
        place.wrapping_sub(WAITING) < LEVELS
    }

    const _: () = assert!(
        WAITING.is_multiple_of(LEVELS),
        "the level is in the low bits"
    );
}

/// Links of a doubly linked list.
pub(crate) struct ListLinks<T> {
    pub(crate) next: Link<T>,
    pub(crate) previous: Link<T>,
    /// Where the thread is: one of [`place`].
    pub(crate) place: AtomicU32,
}

impl<T: Node> ListLinks<T> {
    const_unless_loom! {
        fn new() -> ListLinks<T> {
            ListLinks { next: Link::new(), previous: Link::new(), place: AtomicU32::new(place::NOWHERE) }
        }
    }
}

/// Links of the first thread of a level of a wait queue.
pub(crate) struct LevelLinks<T> {
    pub(crate) above: Link<T>,
    pub(crate) below: Link<T>,
}

impl<T: Node> LevelLinks<T> {
    const_unless_loom! {
        fn new() -> LevelLinks<T> {
            LevelLinks { above: Link::new(), below: Link::new() }
        }
    }
}

/// Links of an inbox.
pub(crate) struct InboxLinks<T> {
    /// The thread pushed before this one; written by whoever set `pending`, later by the consumer.
    pub(crate) next: Link<T>,
    /// The thread is in an inbox.
    pub(crate) pending: AtomicBool,
}

impl<T: Node> InboxLinks<T> {
    const_unless_loom! {
        fn new() -> InboxLinks<T> {
            InboxLinks { next: Link::new(), pending: AtomicBool::new(false) }
        }
    }
}

/// Links of a timer queue, a leftist heap.
pub(crate) struct TimerLinks<T> {
    pub(crate) parent: Link<T>,
    pub(crate) left: Link<T>,
    pub(crate) right: Link<T>,
    /// One more than the rank of the right child; 0: in no queue.
    pub(crate) rank: AtomicU32,
    /// Absolute nanoseconds.
    pub(crate) deadline: AtomicU64,
}

impl<T: Node> TimerLinks<T> {
    const_unless_loom! {
        fn new() -> TimerLinks<T> {
            TimerLinks {
                parent: Link::new(),
                left: Link::new(),
                right: Link::new(),
                rank: AtomicU32::new(0),
                deadline: AtomicU64::new(0),
            }
        }
    }
}
