//! The requests, as raw words between the delimiters.
//!
//! A request is an ID of four words, a revision, and the word that the loader fills with the response's address;
//! some have fields of their own behind that.

use core::cell::UnsafeCell;

/// Words that the loader writes before the kernel runs.
#[repr(C, align(8))]
pub struct Words<const N: usize>(UnsafeCell<[u64; N]>);

// SAFETY: the loader writes before the first instruction; afterwards there is one CPU and nobody writes.
unsafe impl<const N: usize> Sync for Words<N> {}

impl<const N: usize> Words<N> {
    const fn new(words: [u64; N]) -> Self {
        Self(UnsafeCell::new(words))
    }

    /// Word `index` as the loader left it. Volatile: the compiler knows only what the source says.
    pub fn word(&self, index: usize) -> u64 {
        assert!(index < N);
        // SAFETY: within the array, by the line above.
        unsafe { self.0.get().cast::<u64>().add(index).read_volatile() }
    }

    /// Address of the response, if there is one.
    pub fn response(&self) -> Option<u64> {
        Some(self.word(5)).filter(|at| *at != 0)
    }
}

const MAGIC: [u64; 2] = [0xc7b1_dd30_df4c_8b88, 0x0a82_e883_a194_f07b];

const fn request(a: u64, b: u64) -> Words<6> {
    Words::new([MAGIC[0], MAGIC[1], a, b, 0, 0])
}

/// What this kernel asks for.
pub const REVISION: u64 = if cfg!(feature = "base-0") {
    0
} else if cfg!(feature = "base-1") {
    1
} else if cfg!(feature = "base-2") {
    2
} else if cfg!(feature = "base-3") {
    3
} else if cfg!(feature = "base-4") {
    4
} else if cfg!(feature = "base-5") {
    5
} else if cfg!(feature = "base-future") {
    1000
} else {
    6
};
/// Second word of the tag as it leaves the compiler.
pub const TAG_MAGIC: u64 = 0x6a7b_3849_4453_6bdc;
/// The stack it asks for.
pub const STACK: u64 = 256 * 1024;

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident: $size:literal = $value:expr;)*) => {
        $(
            $(#[$doc])*
            #[used]
            #[unsafe(link_section = ".requests.inside")]
            pub static $name: Words<$size> = $value;
        )*
    };
}

#[used]
#[unsafe(link_section = ".requests.start")]
static START: [u64; 4] = [
    0xf6b8_f4b3_9de7_d1ae,
    0xfab9_1a69_40fc_b9cf,
    0x785c_6ed0_15d3_e316,
    0x181e_920a_7852_b9d9,
];
#[used]
#[unsafe(link_section = ".requests.end")]
static END: [u64; 2] = [0xadc0_e053_1bb1_0d03, 0x9572_709f_3176_4c62];

/// Before the start marker: a loader that honours the delimiters does not see it, one that does not finds the
/// request made twice and refuses the kernel.
#[used]
#[unsafe(link_section = ".requests.outside")]
pub static OUTSIDE: Words<6> = request(0xf55038d8e2a1202f, 0x279426fcf5f59740);

#[cfg(feature = "twice")]
#[used]
#[unsafe(link_section = ".requests.inside")]
static TWICE: Words<6> = request(0x48dcf1cb8ad2b852, 0x63984e959a98244b);

requests! {
    /// The base revision tag.
    TAG: 3 = Words::new([0xf956_2b2d_5c95_a6c8, TAG_MAGIC, REVISION]);
    BOOTLOADER: 6 = request(0xf55038d8e2a1202f, 0x279426fcf5f59740);
    CMDLINE: 6 = request(0x4b161536e598651e, 0xb390ad4a2f1f303a);
    FIRMWARE_TYPE: 6 = request(0x8c2f75d90bef28a8, 0x7045a4688eac00c3);
    STACK_SIZE: 7 = Words::new([MAGIC[0], MAGIC[1], 0x224ef0460a8e8926, 0xe1cb0fc25f46ea3d, 0, 0, STACK]);
    HHDM: 6 = request(0x48dcf1cb8ad2b852, 0x63984e959a98244b);
    FRAMEBUFFER: 6 = request(0x9d5827dcd881dd75, 0xa3148604f6fab11b);
    /// Prefers 5 levels, can do with 4 (unless told to insist).
    PAGING: 9 = Words::new([
        MAGIC[0], MAGIC[1], 0x95c1a0edab0944cb, 0xa4e5cb3842f7488a, 1, 0, 1, 1, cfg!(feature = "five-level") as u64,
    ]);
    MEMORY_MAP: 6 = request(0x67cf3d9d378a806f, 0xe304acdfc50c3c62);
    FILE: 6 = request(0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69);
    MODULES: 8 = Words::new([MAGIC[0], MAGIC[1], 0x3e7e279702be32af, 0xca1c4f3bd1280cee, 0, 0, 0, 0]);
    RSDP: 6 = request(0xc5e77b6b397e7b43, 0x27637845accdcf3c);
    SMBIOS: 6 = request(0x9e9046f11e095391, 0xaa4a520fefbde5ee);
    EFI_TABLE: 6 = request(0x5ceba5163eaaf6d6, 0x0a6981610cf65fcc);
    EFI_MAP: 6 = request(0x7df62a431d6872d5, 0xa4fcdfb3e57306c8);
    DATE: 6 = request(0x502746e184c088aa, 0xfbc5ec83e6327893);
    ADDRESS: 6 = request(0x71ba76863cc55f63, 0xb2644a48c516a487);
    DTB: 6 = request(0xb40ddb48fb54bac7, 0x545081493f81ffb7);
    /// Nobody knows this one; a loader must leave it alone.
    UNKNOWN: 6 = request(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
}

/// The entry point request: its last field is a function.
#[repr(C, align(8))]
pub struct EntryRequest {
    id: [u64; 4],
    revision: u64,
    response: UnsafeCell<u64>,
    entry: unsafe extern "C" fn() -> !,
}

// SAFETY: as for `Words`.
unsafe impl Sync for EntryRequest {}

impl EntryRequest {
    /// Whether it was answered.
    pub fn answered(&self) -> bool {
        // SAFETY: nobody writes after the loader has.
        unsafe { self.response.get().read_volatile() != 0 }
    }
}

/// Start elsewhere than the ELF header says.
#[used]
#[unsafe(link_section = ".requests.inside")]
pub static ENTRY: EntryRequest = EntryRequest {
    id: [MAGIC[0], MAGIC[1], 0x13d86c035a1cd3e1, 0x2b0caa89d8f3026a],
    revision: 0,
    response: UnsafeCell::new(0),
    entry: crate::entry::requested_entry,
};

/// The base revision this kernel was given, by the tag's second word.
pub fn loaded_revision() -> u64 {
    match TAG.word(1) {
        // A loader of before base revision 3 leaves the magic; it gave what was asked if it cleared the third word.
        TAG_MAGIC if TAG.word(2) == 0 => REVISION,
        TAG_MAGIC => 0,
        given => given,
    }
}
