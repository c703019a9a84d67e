//! Tests of the loading plan, with ELF files made by hand.

use super::*;
use crate::reloc;
use alloc::vec;
use proptest::prelude::*;

/// A program header in the making.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub file_size: u64,
    pub memory_size: u64,
    pub align: u64,
}

impl Header {
    /// A segment of one page of text at `vaddr`, from the file's second page.
    pub fn text(vaddr: u64) -> Self {
        Self {
            kind: PT_LOAD,
            flags: 5,
            offset: 0x1000,
            vaddr,
            file_size: 0x1000,
            memory_size: 0x1000,
            align: 0x1000,
        }
    }

    /// A writable one, from the file's third page.
    pub fn data(vaddr: u64) -> Self {
        Self {
            flags: 6,
            offset: 0x2000,
            ..Self::text(vaddr)
        }
    }
}

/// An ELF file of three pages: headers, then whatever is put there.
pub fn file(kind: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut f = vec![0; 0x3000];
    f[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    f[16..18].copy_from_slice(&kind.to_le_bytes());
    f[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
    f[20] = 1;
    f[24..32].copy_from_slice(&entry.to_le_bytes());
    f[32] = 64;
    f[52] = 64;
    f[54] = 56;
    f[56..58].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    f[58] = 64;
    for (n, h) in headers.iter().enumerate() {
        let at = 64 + n * 56;
        f[at..at + 4].copy_from_slice(&h.kind.to_le_bytes());
        f[at + 4..at + 8].copy_from_slice(&h.flags.to_le_bytes());
        let words = [
            h.offset,
            h.vaddr,
            h.vaddr,
            h.file_size,
            h.memory_size,
            h.align,
        ];
        for (m, w) in words.into_iter().enumerate() {
            f[at + 8 + m * 8..at + 16 + m * 8].copy_from_slice(&w.to_le_bytes());
        }
    }
    f
}

const BASE: u64 = KERNEL_BASE + 0x20_0000;

fn plan(headers: &[Header]) -> Result<Plan, Fault> {
    Plan::new(&file(ET_EXEC, BASE, headers))
}

#[test]
fn static_kernel_stays_where_it_was_linked() {
    let p = plan(&[
        Header::text(BASE),
        Header {
            memory_size: 0x1800,
            ..Header::data(BASE + 0x1000)
        },
    ])
    .unwrap();
    assert_eq!(
        (p.virtual_base, p.slide, p.size),
        (VirtAddr(BASE), 0, 0x3000)
    );
    assert_eq!(p.check_entry(p.entry), Ok(()));
    assert_eq!(
        p.page_runs(),
        [
            PageRun {
                offset: 0,
                length: 0x1000,
                writable: false,
                executable: true
            },
            PageRun {
                offset: 0x1000,
                length: 0x2000,
                writable: true,
                executable: false
            },
        ]
    );
}

#[test]
fn loading_copies_file_bytes_and_zeroes_the_rest() {
    let h = Header {
        file_size: 0x10,
        memory_size: 0x1800,
        ..Header::text(BASE)
    };
    let mut f = file(ET_EXEC, BASE, &[h]);
    f[0x1000..0x1020].fill(7);
    let p = Plan::new(&f).unwrap();
    let mut image = vec![0xff; p.size as usize];
    p.load(&f, &mut image).unwrap();
    assert_eq!(image[..0x10], [7; 0x10]);
    assert!(image[0x10..].iter().all(|b| *b == 0));
    assert_eq!(
        p.load(&f, &mut image[1..]),
        Err(Fault::ImageTooLarge { bytes: 0x2000 })
    );
}

#[test]
fn relocatable_kernel_is_lifted_to_the_higher_half() {
    let f = file(
        ET_DYN,
        0x10,
        &[
            Header::text(0),
            Header {
                align: 0x20_0000,
                offset: 0x1000,
                vaddr: 0x20_1000,
                ..Header::text(0)
            },
        ],
    );
    let p = Plan::new(&f).unwrap();
    assert_eq!(p.virtual_base, VirtAddr(KERNEL_BASE));
    assert_eq!(p.entry, VirtAddr(KERNEL_BASE + 0x10));
    assert_eq!(p.slide % 0x20_0000, 0);
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    assert!(matches!(Plan::new(b""), Err(Fault::NotElf(_))));
    assert!(matches!(
        Plan::new(
            b"MZ and more than sixty-four bytes of something else, so that it is long enough"
        ),
        Err(Fault::NotElf(_))
    ));
    let good = file(ET_EXEC, BASE, &[Header::text(BASE)]);
    assert!(matches!(Plan::new(&good[..40]), Err(Fault::NotElf(_))));
    assert!(matches!(Plan::new(&good[..70]), Err(Fault::NotElf(_))));
    let with = |at: usize, byte| {
        let mut f = good.clone();
        f[at] = byte;
        Plan::new(&f)
    };
    assert!(matches!(
        with(4, 1),
        Err(Fault::WrongMachine { .. } | Fault::NotElf(_))
    ));
    assert!(matches!(with(5, 2), Err(Fault::WrongMachine { .. })));
    assert!(matches!(
        with(18, 3),
        Err(Fault::WrongMachine { found: 3, .. })
    ));
    assert!(matches!(
        with(16, 1),
        Err(Fault::WrongMachine { found: 1, .. })
    ));
    assert_eq!(plan(&[]), Err(Fault::NoSegments));
    assert_eq!(
        plan(&[Header {
            kind: PT_DYNAMIC,
            memory_size: 0,
            ..Header::text(BASE)
        }]),
        Err(Fault::NoSegments)
    );
}

#[test]
fn truncated_elf_is_refused_by_name() {
    let f = file(ET_EXEC, BASE, &[Header::text(BASE)]);
    assert_eq!(
        Plan::new(&f[..0x1800]),
        Err(Fault::SegmentTruncated {
            index: 0,
            end: 0x2000,
            size: 0x1800
        })
    );
}

#[test]
fn a_lost_section_table_is_no_matter() {
    let mut f = file(ET_EXEC, BASE, &[Header::text(BASE)]);
    let want = Plan::new(&f);
    // e_shoff and e_shnum: a table that would lie beyond the end.
    f[40..48].copy_from_slice(&0x10_0000_u64.to_le_bytes());
    f[60] = 9;
    assert!(want.is_ok());
    assert_eq!(Plan::new(&f), want);
}

#[test]
fn bad_segments_are_refused_by_name() {
    let t = Header::text(BASE);
    assert_eq!(
        plan(&[Header {
            memory_size: 0xfff,
            ..t
        }]),
        Err(Fault::SegmentShrinks { index: 0 })
    );
    assert_eq!(
        plan(&[Header {
            memory_size: 0,
            ..t
        }]),
        Err(Fault::SegmentShrinks { index: 0 })
    );
    assert_eq!(
        plan(&[Header { align: 0x3000, ..t }]),
        Err(Fault::SegmentMisaligned {
            index: 0,
            align: 0x3000
        })
    );
    assert_eq!(
        plan(&[Header {
            offset: 0x1008,
            ..t
        }]),
        Err(Fault::SegmentMisaligned {
            index: 0,
            align: 0x1000
        })
    );
    assert_eq!(
        plan(&[Header {
            memory_size: u64::MAX,
            ..t
        }]),
        Err(Fault::SegmentWraps { index: 0 })
    );
    assert_eq!(
        plan(&[Header {
            offset: u64::MAX,
            ..t
        }]),
        Err(Fault::SegmentWraps { index: 0 })
    );
    assert_eq!(
        plan(&[Header {
            vaddr: 0u64.wrapping_sub(0x1000),
            ..t
        }]),
        Err(Fault::SegmentWraps { index: 0 })
    );
    assert_eq!(
        plan(&[t, Header::data(BASE + 0x800 - 0x800)]),
        Err(Fault::SegmentsOverlap {
            first: 0,
            second: 1
        })
    );
    assert_eq!(
        plan(&[Header::text(0x10_0000)]),
        Err(Fault::LowerHalf {
            index: 0,
            vaddr: 0x10_0000
        })
    );
    let far = Header {
        vaddr: KERNEL_BASE,
        memory_size: 0x8000_0000 - 0x1000,
        ..t
    };
    assert!(plan(&[far]).is_ok());
    let wide = file(
        ET_DYN,
        0,
        &[
            Header::text(0),
            Header {
                vaddr: 0x9000_0000,
                ..t
            },
        ],
    );
    assert!(matches!(Plan::new(&wide), Err(Fault::ImageTooLarge { .. })));
}

#[test]
fn entry_outside_text_is_refused() {
    let p = plan(&[Header::text(BASE), Header::data(BASE + 0x1000)]).unwrap();
    for at in [0, BASE - 1, BASE + 0x1000, BASE + 0x2000, u64::MAX] {
        assert_eq!(
            p.check_entry(VirtAddr(at)),
            Err(Fault::BadEntryPoint { entry: at })
        );
    }
}

#[test]
fn a_page_that_two_segments_share_has_the_rights_of_both() {
    let text = Header {
        memory_size: 0x1200,
        file_size: 0,
        align: 1,
        ..Header::text(BASE)
    };
    let data = Header {
        vaddr: BASE + 0x1200,
        memory_size: 0x2000,
        file_size: 0,
        align: 1,
        ..Header::data(BASE)
    };
    let runs = plan(&[text, data]).unwrap().page_runs();
    assert_eq!(
        runs,
        [
            PageRun {
                offset: 0,
                length: 0x1000,
                writable: false,
                executable: true
            },
            PageRun {
                offset: 0x1000,
                length: 0x1000,
                writable: true,
                executable: true
            },
            PageRun {
                offset: 0x2000,
                length: 0x2000,
                writable: true,
                executable: false
            },
        ]
    );
}

/// A relocatable image of two pages, its dynamic section at 0x1000 with the given tags.
fn relocatable(tags: &[(u64, u64)], words: &[(usize, u64)]) -> (Plan, Vec<u8>) {
    let dynamic = Header {
        kind: PT_DYNAMIC,
        memory_size: 0x100,
        file_size: 0x100,
        ..Header::data(0x1000)
    };
    let mut f = file(ET_DYN, 0, &[Header::text(0), Header::data(0x1000), dynamic]);
    let mut put =
        |at: usize, word: u64| f[0x1000 + at..0x1008 + at].copy_from_slice(&word.to_le_bytes());
    for (n, (tag, value)) in tags.iter().enumerate() {
        put(0x1000 + n * 16, *tag);
        put(0x1008 + n * 16, *value);
    }
    for (at, word) in words {
        put(*at, *word);
    }
    let p = Plan::new(&f).unwrap();
    let mut image = vec![0; p.size as usize];
    p.load(&f, &mut image).unwrap();
    (p, image)
}

fn word(image: &[u8], at: usize) -> u64 {
    crate::addr::word_at(image, at).unwrap()
}

#[test]
fn relative_relocations_add_the_slide() {
    let tags = [(7, 0x200), (8, 48), (9, 24)];
    let (p, mut image) = relocatable(
        &tags,
        &[(0x200, 0x300), (0x208, 8), (0x210, 0x1234), (0x220, 0)],
    );
    reloc::apply(&p, &mut image).unwrap();
    assert_eq!(word(&image, 0x300), KERNEL_BASE + 0x1234);
}

#[test]
fn symbolic_relocations_use_the_images_own_symbols() {
    // Symbol 1 at 0x418: defined in section 5, value 0x777.
    let tags = [(7, 0x200), (8, 48), (6, 0x400)];
    let words = [
        (0x200, 0x300),
        (0x208, 1 << 32 | 1),
        (0x210, 3),
        (0x218, 0x308),
        (0x220, 1 << 32 | 6),
        (0x418, 5 << 48),
        (0x420, 0x777),
    ];
    let (p, mut image) = relocatable(&tags, &words);
    reloc::apply(&p, &mut image).unwrap();
    assert_eq!(word(&image, 0x300), KERNEL_BASE + 0x77a);
    assert_eq!(word(&image, 0x308), KERNEL_BASE + 0x777);

    let undefined = [(0x200, 0x300), (0x208, 1 << 32 | 1)];
    let (p, mut image) = relocatable(&tags, &undefined);
    assert_eq!(
        reloc::apply(&p, &mut image),
        Err(Fault::UnsupportedRelocation { kind: 1 })
    );
}

#[test]
fn packed_relocations_are_unpacked() {
    // One word at 0x300, then a bitmap for 0x308 and 0x318.
    let (p, mut image) = relocatable(
        &[(36, 0x200), (35, 16)],
        &[
            (0x200, 0x300),
            (0x208, 0b1011),
            (0x300, 1),
            (0x308, 2),
            (0x310, 3),
            (0x318, 4),
        ],
    );
    reloc::apply(&p, &mut image).unwrap();
    assert_eq!(
        [0x300, 0x308, 0x310, 0x318].map(|at| word(&image, at)),
        [KERNEL_BASE + 1, KERNEL_BASE + 2, 3, KERNEL_BASE + 4]
    );
}

#[test]
fn bad_relocations_are_refused_by_name() {
    let apply = |tags: &[_], words: &[_]| {
        let (p, mut image) = relocatable(tags, words);
        reloc::apply(&p, &mut image)
    };
    assert_eq!(
        apply(&[(7, 0x200), (8, 24)], &[(0x208, 37)]),
        Err(Fault::UnsupportedRelocation { kind: 37 })
    );
    assert_eq!(
        apply(&[(7, 0x200), (8, 24)], &[(0x200, 0x1ffc), (0x208, 8)]),
        Err(Fault::RelocationOutside { offset: 0x1ffc })
    );
    assert_eq!(
        apply(&[(7, 0x1ff0), (8, 24)], &[]),
        Err(Fault::BadRelocationTable)
    );
    assert_eq!(
        apply(&[(7, u64::MAX), (8, 24)], &[]),
        Err(Fault::BadRelocationTable)
    );
    assert_eq!(apply(&[(9, 16)], &[]), Err(Fault::BadRelocationTable));
    assert_eq!(apply(&[(17, 0)], &[]), Err(Fault::BadRelocationTable));
    assert_eq!(
        apply(&[(36, 0x200), (35, 8)], &[(0x200, 0x10_0000)]),
        Err(Fault::RelocationOutside { offset: 0x10_0000 })
    );
}

/// Everything that is done with a file that comes from a disk.
fn swallow(bytes: &[u8]) {
    let Ok(p) = Plan::new(bytes) else { return };
    // A file may ask for up to 2 GiB; only small images are worth the test's memory.
    if p.size > 1 << 20 {
        return;
    }
    let mut image = vec![0; p.size as usize];
    if p.load(bytes, &mut image).is_ok() && reloc::apply(&p, &mut image).is_ok() {
        let _ = crate::request::Requests::scan(&p, &image);
    }
    let runs = p.page_runs();
    assert!(
        runs.windows(2)
            .all(|w| w[0].offset + w[0].length <= w[1].offset)
    );
    assert!(
        runs.iter()
            .all(|r| r.length > 0 && r.offset + r.length <= p.size)
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        swallow(&bytes);
    }

    #[test]
    fn damaged_files_never_panic(damage in proptest::collection::vec((0usize..0x3000, any::<u8>()), 1..12), cut in 0usize..0x3000) {
        let dynamic = Header { kind: PT_DYNAMIC, memory_size: 0x100, file_size: 0x100, ..Header::data(0x1000) };
        let mut f = file(ET_DYN, 0, &[Header::text(0), Header::data(0x1000), dynamic]);
        for (at, byte) in damage {
            // Headers and dynamic section are where it hurts.
            let at = if at & 1 == 0 { at % 256 } else { at };
            f[at] = byte;
        }
        swallow(&f);
        swallow(&f[..cut]);
    }

    #[test]
    fn random_headers_never_panic(
        numbers in proptest::collection::vec((0u64..6, any::<u64>(), 0u32..64), 18), relocatable in any::<bool>()
    ) {
        // Numbers of all magnitudes, near the edges too.
        let mut n = numbers.iter().map(|(shape, value, shift)| match shape {
            0 => value >> shift,
            1 => KERNEL_BASE + (value & 0xff_ffff),
            2 => 0u64.wrapping_sub(value & 0xffff),
            3 => 1 << shift,
            _ => value & 0x3fff,
        });
        let mut next = || n.next().unwrap_or(0);
        let headers: Vec<_> = (0..3).map(|_| Header {
            kind: PT_LOAD, flags: 7, offset: next(), vaddr: next(), file_size: next(), memory_size: next(), align: next(),
        }).collect();
        swallow(&file(if relocatable { ET_DYN } else { ET_EXEC }, next(), &headers));
    }
}
