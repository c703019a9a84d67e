use super::*;

/// A CPU by the leaves that matter here.
#[derive(Clone)]
struct Cpu {
    vendor: &'static [u8; 12],
    signature: u32,
    xsave: bool,
    kinds: u32,
    offered: u64,
    pointers: u32,
}

/// Sizes and places as Intel's server CPUs have them; bits 17 and 18 are AMX.
fn component(bit: u32) -> Leaf {
    match bit {
        2 => [256, 576, 0, 0],
        3 => [64, 960, 0, 0],
        4 => [64, 1024, 0, 0],
        5 => [64, 1088, 0, 0],
        6 => [512, 1152, 0, 0],
        7 => [1024, 1664, 0, 0],
        9 => [8, 2688, 0, 0],
        17 => [64, 2752, 2, 0],
        18 => [8192, 2816, 6, 0],
        _ => [0; 4],
    }
}

impl Cpu {
    const SERVER: Cpu = Cpu {
        vendor: b"GenuineIntel",
        signature: 0x0008_06F8,
        xsave: true,
        kinds: 0b1111,
        offered: 0x602E7,
        pointers: 0,
    };

    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        let word = |at: usize| u32::from_le_bytes(self.vendor[at..at + 4].try_into().unwrap());
        match (leaf, subleaf) {
            (0, _) => [if self.xsave { 0x20 } else { 7 }, word(0), word(8), word(4)],
            (1, _) => [self.signature, 0, u32::from(self.xsave) << 26, 0],
            (0xD, 0) => [self.offered as u32, 0, 0, (self.offered >> 32) as u32],
            (0xD, 1) => [self.kinds, 0, 0, 0],
            (0xD, bit) => component(bit),
            (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
            (0x8000_0008, _) => [0, self.pointers, 0, 0],
            _ => [0; 4],
        }
    }

    fn layout(&self) -> Layout {
        Layout::from_cpuid(|leaf, subleaf| self.cpuid(leaf, subleaf))
    }
}

#[test]
fn only_known_components_are_enabled() {
    let layout = Cpu::SERVER.layout();
    // Neither PKRU nor AMX, which are offered.
    assert_eq!(layout.xcr0, 0xE7);
    let without_a_third = Cpu {
        offered: 0x67,
        ..Cpu::SERVER
    };
    assert_eq!(without_a_third.layout().xcr0, 7);
    let without_avx = Cpu {
        offered: 0xE3,
        ..Cpu::SERVER
    };
    assert_eq!(without_avx.layout().xcr0, 3);
}

#[test]
fn what_is_not_allowed_is_left_out() {
    let with = |standard_only, allowed| {
        Layout::from_cpuid(|leaf, subleaf| {
            let found = Cpu::SERVER.cpuid(leaf, subleaf);
            restricted((leaf, subleaf), found, standard_only, allowed)
        })
    };
    assert_eq!(with(false, u64::MAX), Cpu::SERVER.layout());
    let narrow = with(false, ALWAYS);
    assert_eq!(
        (narrow.method, narrow.xcr0, narrow.bytes),
        (Method::Xsaves, 3, 576)
    );
    assert_eq!(with(false, 7).xcr0, 7);
    // AVX-512 is of no use without AVX.
    assert_eq!(with(false, 0xE3).xcr0, 3);
    let standard = with(true, 7);
    assert_eq!((standard.method, standard.xcr0), (Method::Xsaveopt, 7));
}

#[test]
fn the_format_decides_the_size() {
    let of = |kinds| {
        Cpu {
            kinds,
            ..Cpu::SERVER
        }
        .layout()
    };
    let (compacted, standard) = (of(0b1111), of(0b0001));
    assert_eq!(
        (compacted.method, standard.method),
        (Method::Xsaves, Method::Xsaveopt)
    );
    // Legacy region and header, then AVX 256, opmask 64, upper halves 512, upper registers 1024.
    assert_eq!(compacted.bytes, 576 + 256 + 64 + 512 + 1024);
    // As far as the end of the last, with the room that MPX would have.
    assert_eq!(standard.bytes, 1664 + 1024);
    assert_eq!(
        (compacted.standard_bytes, standard.standard_bytes),
        (2688, 2688)
    );
    let places = |layout: &Layout| -> Vec<u32> {
        layout
            .extended()
            .iter()
            .map(|component| component.offset)
            .collect()
    };
    assert_eq!(places(&compacted), [576, 832, 896, 1408]);
    assert_eq!(places(&standard), [576, 1088, 1152, 1664]);
}

#[test]
fn a_component_that_wants_it_is_aligned_in_the_compacted_format() {
    // Opmask without AVX before it never happens; a made-up size shows the gap.
    let cpuid = |_: u32, bit: u32| match bit {
        2 => [24, 576, 0, 0],
        5 => [64, 640, 2, 0],
        _ => [0; 4],
    };
    let layout = Layout::of(Method::Xsavec, 0b10_0111, false, cpuid);
    assert_eq!(layout.extended()[1].offset, 640);
    assert_eq!(layout.bytes, 704);
}

#[test]
fn the_best_instruction_is_taken() {
    for (kinds, method) in [
        (0b0000, Method::Xsave),
        (0b0001, Method::Xsaveopt),
        (0b0010, Method::Xsavec),
        (0b0011, Method::Xsaveopt),
        (0b1011, Method::Xsaves),
    ] {
        let cpu = Cpu {
            kinds,
            ..Cpu::SERVER
        };
        assert_eq!(cpu.layout().method, method);
    }
    let old = Cpu {
        xsave: false,
        ..Cpu::SERVER
    };
    assert_eq!(
        (old.layout().method, old.layout().bytes, old.layout().xcr0),
        (Method::Fxsave, 512, 0)
    );
}

#[test]
fn components_that_make_no_sense_are_left_off() {
    let spoilt = |broken: u32, leaf: Leaf| {
        Layout::from_cpuid(move |l, s| match (l, s) {
            (0xD, s) if s == broken => leaf,
            _ => Cpu::SERVER.cpuid(l, s),
        })
    };
    assert_eq!(spoilt(2, [0, 576, 0, 0]).xcr0, 3);
    assert_eq!(spoilt(2, [256, 512, 0, 0]).xcr0, 3);
    assert_eq!(spoilt(7, [1024, u32::MAX - 8, 0, 0]).xcr0, 7);
    assert_eq!(spoilt(6, [1 << 20, 1152, 0, 0]).xcr0, 7);
    assert_eq!(spoilt(5, [64, 1088, 1, 0]).xcr0, 7);
}

#[test]
fn cpus_known_to_leak_are_told_from_others() {
    let leaks = |cpu: Cpu| leaks_when_lazy(|leaf, subleaf| cpu.cpuid(leaf, subleaf));
    assert!(leaks(Cpu::SERVER));
    assert!(!leaks(Cpu {
        vendor: b"AuthenticAMD",
        ..Cpu::SERVER
    }));
    // Atom 330.
    assert!(!leaks(Cpu {
        signature: 0x0001_06C2,
        ..Cpu::SERVER
    }));
}

#[test]
fn amd_cpus_keep_x87_pointers_unless_they_say_otherwise() {
    let amd = Cpu {
        vendor: b"AuthenticAMD",
        ..Cpu::SERVER
    };
    assert!(amd.layout().keeps_x87_pointers);
    assert!(!Cpu { pointers: 4, ..amd }.layout().keeps_x87_pointers);
    assert!(!Cpu::SERVER.layout().keeps_x87_pointers);
}

#[test]
fn the_host_cpu_has_a_layout_with_room_for_all() {
    let layout = Layout::hosted();
    let mut end = if layout.has_header() {
        HEADER_END
    } else {
        LEGACY_BYTES
    } as u32;
    for component in layout.extended() {
        assert!(component.offset >= end, "components overlap");
        end = component.offset + component.bytes;
    }
    assert!(layout.bytes >= end && layout.bytes.is_multiple_of(64));
    assert!(layout.to_string().contains(layout.method.text()));
}
