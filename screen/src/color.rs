//! Colours, and how a framebuffer wants them.

/// A colour of the 256 that terminals number: 0 to 15 the named ones, 16 to 231 a cube of 6 × 6 × 6, 232 to 255
/// greys (xterm, "ctlseqs", `Ps = 38; 5`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Color(pub u8);

impl Color {
    /// What text has if nobody says otherwise: light grey.
    pub const FOREGROUND: Color = Color(7);
    /// What is behind it: black.
    pub const BACKGROUND: Color = Color(0);
    /// Red, bright enough to be read on black.
    pub const RED: Color = Color(9);
    /// Yellow, bright.
    pub const YELLOW: Color = Color(11);
    /// White.
    pub const WHITE: Color = Color(15);

    /// The colour nearest to red, green and blue of 0 to 255 each, among the cube and the greys.
    pub fn nearest(red: u8, green: u8, blue: u8) -> Color {
        let step = |level: u8| {
            (0..6u8)
                .min_by_key(|s| CUBE[*s as usize].abs_diff(level))
                .unwrap_or(0)
        };
        let cube = Color(16 + 36 * step(red) + 6 * step(green) + step(blue));
        let mean = (u32::from(red) + u32::from(green) + u32::from(blue)) / 3;
        let grey = Color(232 + ((mean.saturating_sub(3)) / 10).min(23) as u8);
        let distance = |color: Color| -> u32 {
            let [r, g, b] = color.rgb();
            [(r, red), (g, green), (b, blue)]
                .iter()
                .map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2))
                .sum()
        };
        if distance(grey) < distance(cube) {
            grey
        } else {
            cube
        }
    }

    /// Red, green and blue, 0 to 255 each.
    pub const fn rgb(self) -> [u8; 3] {
        match self.0 {
            index @ 0..16 => NAMED[index as usize],
            index @ 16..232 => {
                let index = index - 16;
                [
                    CUBE[(index / 36) as usize],
                    CUBE[(index / 6 % 6) as usize],
                    CUBE[(index % 6) as usize],
                ]
            }
            index => [8 + (index - 232) * 10; 3],
        }
    }
}

const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];

/// Black, red, green, yellow, blue, magenta, cyan, white; then bright.
const NAMED: [[u8; 3]; 16] = [
    [0x00, 0x00, 0x00],
    [0xC0, 0x30, 0x30],
    [0x30, 0xA8, 0x40],
    [0xB8, 0x88, 0x20],
    [0x40, 0x60, 0xD0],
    [0xA8, 0x48, 0xB0],
    [0x20, 0xA0, 0xA8],
    [0xC8, 0xC8, 0xC8],
    [0x68, 0x68, 0x68],
    [0xFF, 0x60, 0x60],
    [0x60, 0xE0, 0x70],
    [0xF8, 0xD8, 0x50],
    [0x78, 0x98, 0xFF],
    [0xE8, 0x80, 0xF0],
    [0x58, 0xE0, 0xE8],
    [0xFF, 0xFF, 0xFF],
];

/// Where in a pixel each primary colour sits: the position of its lowest bit, eight bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PixelFormat {
    /// Red's position, at most 24.
    pub red_shift: u8,
    /// Green's position, at most 24.
    pub green_shift: u8,
    /// Blue's position, at most 24.
    pub blue_shift: u8,
}

impl PixelFormat {
    /// Whether each colour lies within the pixel.
    pub(crate) const fn is_valid(self) -> bool {
        self.red_shift <= 24 && self.green_shift <= 24 && self.blue_shift <= 24
    }

    /// The pixel of this colour.
    pub(crate) const fn pixel(self, [red, green, blue]: [u8; 3]) -> u32 {
        (red as u32) << self.red_shift
            | (green as u32) << self.green_shift
            | (blue as u32) << self.blue_shift
    }
}

/// `from` at share 0, `to` at share 255.
pub(crate) fn mix(from: [u8; 3], to: [u8; 3], share: u8) -> [u8; 3] {
    core::array::from_fn(|i| {
        let share = u32::from(share);
        // At most 255 * 255 + 127 in the sum, so the quotient is at most 255.
        ((u32::from(from[i]) * (255 - share) + u32::from(to[i]) * share + 127) / 255) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_colours_that_are_in_the_palette() {
        for index in 16..=255 {
            let [r, g, b] = Color(index).rgb();
            assert_eq!(Color::nearest(r, g, b).rgb(), [r, g, b], "colour {index}");
        }
    }

    #[test]
    fn mixing_keeps_the_ends_and_lies_between() {
        let (from, to) = ([0, 10, 255], [255, 20, 0]);
        assert_eq!(mix(from, to, 0), from);
        assert_eq!(mix(from, to, 255), to);
        assert_eq!(mix(from, to, 128), [128, 15, 127]);
    }

    #[test]
    fn pixels_follow_the_shifts() {
        let format = PixelFormat {
            red_shift: 16,
            green_shift: 8,
            blue_shift: 0,
        };
        assert_eq!(format.pixel([0x12, 0x34, 0x56]), 0x123456);
        assert!(
            !PixelFormat {
                red_shift: 25,
                ..format
            }
            .is_valid()
        );
    }
}
