//! Where the fields of a row begin: the separator, found from the lines themselves, and a scan of whole rows.
//!
//! [`Scan`] tells of every row how many columns it has and what two of them say, in one pass over vectors of separators. It
//! promises what a split of each line would find, for any bytes. It never judges a row.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

pub(crate) mod lanes;

#[cfg(target_arch = "x86_64")]
use lanes::Wide;
use lanes::{Lanes, Words};

/// What a row says, its line end left out.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The whole row with its newline, where it has one.
    pub line: &'a [u8],
    /// How many columns it has; 0 for an empty line.
    pub columns: usize,
    /// The fields asked for; empty where the row has no such column.
    pub wanted: [Field<'a>; 2],
}

/// One field. Keeps what stands before it in sight, so that it can be read as a word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Field<'a> {
    up_to: &'a [u8],
    length: usize,
}

impl<'a> Field<'a> {
    /// The field `from..to` of `bytes`; an empty one where there is no such.
    #[inline(always)]
    fn of(bytes: &'a [u8], from: usize, to: usize) -> Self {
        bytes.get(..to).map_or(Self::default(), |up_to| Self { up_to, length: to.saturating_sub(from) })
    }

    /// What it says.
    #[must_use]
    pub fn text(self) -> &'a [u8] {
        &self.up_to[self.up_to.len() - self.length..]
    }

    /// The number it holds; 0 when that is no unsigned decimal number.
    ///
    /// Up to eight digits are read as one word and added up in pairs, fours and eights: a loop over digits would end
    /// unforeseen.
    #[inline]
    #[must_use]
    pub fn number(self) -> u64 {
        const ZEROS: u64 = 0x3030_3030_3030_3030;
        let word = self.up_to.last_chunk().filter(|_| self.length <= 8).map(|chunk| u64::from_le_bytes(*chunk));
        let Some(word) = word else { return slow_number(self.text()) };
        let before = u64::MAX.checked_shr(8 * self.length as u32).unwrap_or(0);
        let digits = (word & !before | ZEROS & before) ^ ZEROS;
        if (digits | digits.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
            return 0;
        }
        let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
        let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
        fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff
    }

    /// Without the carriage return at its end.
    fn without_return(self) -> Self {
        match self.text() {
            [.., b'\r'] => Self { up_to: &self.up_to[..self.up_to.len() - 1], length: self.length - 1 },
            _ => self,
        }
    }
}

fn slow_number(text: &[u8]) -> u64 {
    let add = |value: u64, &byte: &u8| {
        let digit = char::from(byte).to_digit(10)?;
        Some(value.wrapping_mul(10).wrapping_add(digit.into()))
    };
    text.iter().try_fold(0, add).unwrap_or(0)
}

/// Bytes whose field ends are found at once.
const STRIP: usize = 2048;

/// Where the fields of a strip end, and which of these ends are ends of rows.
#[derive(Debug)]
struct Ends {
    fields: [u32; STRIP + 64],
    /// Places in `fields`.
    rows: [u32; STRIP + 64],
}

/// Scans rows; keeps its memory, 17 KB, from call to call.
#[derive(Debug)]
pub struct Scan {
    ends: Box<Ends>,
    #[cfg(target_arch = "x86_64")]
    wide: Option<Wide>,
}

impl Default for Scan {
    fn default() -> Self {
        Self::new()
    }
}

impl Scan {
    /// A scan for the processor it runs on.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ends: Box::new(Ends { fields: [0; STRIP + 64], rows: [0; STRIP + 64] }),
            #[cfg(target_arch = "x86_64")]
            wide: Wide::detect(),
        }
    }

    /// Calls `each` with every row of `bytes`, in order. Columns are counted from 0; the last row may lack its newline.
    pub fn rows<'a>(&mut self, bytes: &'a [u8], separator: u8, wanted: [usize; 2], mut each: impl FnMut(Row<'a>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let strip = &rest[..rest.len().min(STRIP)];
            let Some(last) = memchr::memrchr(b'\n', strip) else {
                // No row ends here: the row is long, or the last.
                let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                let (line, after) = rest.split_at(length);
                each(split(line, separator, wanted));
                rest = after;
                continue;
            };
            let (strip, after) = rest.split_at(last + 1);
            let (fields, rows) = self.find(strip, separator);
            let (fields, rows) = (&self.ends.fields[..fields], &self.ends.rows[..rows]);
            let mut start = 0;
            let mut first = 0;
            for &row in rows {
                let ends = &fields[first..=row as usize];
                let newline = ends[ends.len() - 1] as usize;
                let field = |column: usize| match column.checked_sub(1) {
                    _ if column >= ends.len() => Field::default(),
                    None => Field::of(strip, start, ends[0] as usize),
                    Some(before) => Field::of(strip, ends[before] as usize + 1, ends[column] as usize),
                };
                let line = &strip[start..=newline];
                each(tidy(Row { line, columns: ends.len(), wanted: wanted.map(field) }, wanted));
                start = newline + 1;
                first = row as usize + 1;
            }
            rest = after;
        }
    }

    fn find(&mut self, strip: &[u8], separator: u8) -> (usize, usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = self.wide {
            // SAFETY: a `Wide` exists only where all the features of `find_wide` were detected.
            #[allow(unsafe_code)]
            return unsafe { find_wide(wide, strip, separator, &mut self.ends) };
        }
        find(Words, strip, separator, &mut self.ends)
    }
}

/// [`find`], compiled for processors with these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn find_wide(wide: Wide, strip: &[u8], separator: u8, ends: &mut Ends) -> (usize, usize) {
    find(wide, strip, separator, ends)
}

/// Where the fields of `strip` end, and where its rows do; returns how many.
#[inline(always)]
fn find<L: Lanes>(lanes: L, strip: &[u8], separator: u8, ends: &mut Ends) -> (usize, usize) {
    let (mut fields, mut rows) = (0, 0);
    let (blocks, tail) = strip.as_chunks::<64>();
    let mut last = [0; 64];
    last[..tail.len()].copy_from_slice(tail);
    for (at, block) in blocks.iter().chain([&last]).enumerate() {
        let real = if at < blocks.len() { u64::MAX } else { (1 << tail.len()) - 1 };
        let marks = lanes.marks(block, separator) & real;
        let mut newlines = lanes.marks(block, b'\n') & real;
        let found = newlines.count_ones() as usize;
        let mut last_field = |row: &mut u32| {
            let before = newlines & newlines.wrapping_neg();
            *row = fields as u32 + (marks & before.wrapping_sub(1)).count_ones();
            newlines &= newlines.wrapping_sub(1);
        };
        // Two are written whether there are as many or not, for the same reason as in [`spread`].
        if let Some(room) = ends.rows.get_mut(rows..).and_then(|room| room.first_chunk_mut::<2>()) {
            room.iter_mut().for_each(&mut last_field);
        }
        ends.rows[(rows + 2).min(rows + found)..rows + found].iter_mut().for_each(last_field);
        rows += found;
        fields = spread(&mut ends.fields, fields, (at * 64) as u32, marks);
    }
    (fields, rows)
}

/// Appends `base` and the places of the bits of `marks`; returns the new count. There must be room for 64.
#[inline(always)]
pub(crate) fn spread(places: &mut [u32], count: usize, base: u32, marks: u64) -> usize {
    let found = marks.count_ones() as usize;
    let mut marks = marks;
    // Ten are written whether there are as many or not: a loop over each would end unforeseen every time. More of 64 bytes of
    // rows are rare.
    if let Some(room) = places.get_mut(count..).and_then(|room| room.first_chunk_mut::<10>()) {
        for place in room {
            *place = base.wrapping_add(marks.trailing_zeros());
            marks &= marks.wrapping_sub(1);
        }
    }
    for place in &mut places[(count + 10).min(count + found)..count + found] {
        *place = base + marks.trailing_zeros();
        marks &= marks.wrapping_sub(1);
    }
    count + found
}

/// The same for one row, by splitting it.
fn split(line: &[u8], separator: u8, wanted: [usize; 2]) -> Row<'_> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let columns = memchr::memchr_iter(separator, text).count() + 1;
    let field = |column: usize| {
        let text = text.split(|&byte| byte == separator).nth(column).unwrap_or_default();
        Field::of(text, 0, text.len())
    };
    tidy(Row { line, columns, wanted: wanted.map(field) }, wanted)
}

/// Takes the carriage return of a line end from the last field, and the column from an empty line.
#[inline(always)]
fn tidy(row: Row<'_>, wanted: [usize; 2]) -> Row<'_> {
    let mut row = row;
    if let [.., b'\r', b'\n'] | [.., b'\r'] = row.line {
        for (field, column) in row.wanted.iter_mut().zip(wanted) {
            if row.columns.checked_sub(1) == Some(column) {
                *field = field.without_return();
            }
        }
    }
    if matches!(row.line, b"\n" | b"\r\n" | b"\r") {
        row.columns = 0;
    }
    row
}

/// The bytes that may separate fields, the likeliest first.
const SEPARATORS: [u8; 5] = [b',', b';', b'\t', b'|', b' '];
/// Lines looked at.
const LINES: usize = 32;

/// The separator that most lines hold equally often; `None` when the bytes are no rows.
pub(crate) fn separator(bytes: &[u8]) -> Option<u8> {
    let bytes = &bytes[..bytes.len().min(16 * 1024)];
    let mut counts = [[0_u16; LINES]; SEPARATORS.len()];
    let mut lines = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n').take(LINES) {
        for &byte in line {
            if let Some(which) = SEPARATORS.iter().position(|&separator| separator == byte) {
                counts[which][lines] += 1;
            }
        }
        lines += 1;
    }
    let score = |counts: &[u16; LINES]| {
        let counts = &counts[..lines];
        let usual = counts.iter().max_by_key(|&count| counts.iter().filter(|&other| other == count).count());
        let usual = usual.copied().unwrap_or(0);
        let alike = counts.iter().filter(|&&count| count == usual).count();
        if usual > 0 && alike * 10 >= lines * 6 { usize::from(usual) * alike } else { 0 }
    };
    let best = (0..SEPARATORS.len()).rev().max_by_key(|&which| score(&counts[which]))?;
    (score(&counts[best]) > 0).then(|| SEPARATORS[best])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_separator_is_what_lines_hold_alike() {
        assert_eq!(separator(b"a,b c,d\n1,2 3,4\n"), Some(b','));
        assert_eq!(separator(b"a;b\n1;2\n3;4,5\n"), Some(b';'));
        assert_eq!(separator(b"one word\nmore than two words\nnone\n"), None);
        assert_eq!(separator(b""), None);
    }

    fn holds(bytes: &[u8]) {
        // A column that no row has, as when the header names no such.
        holds_for(bytes, [3, usize::MAX]);
        holds_for(bytes, [0, 3]);
    }

    fn holds_for(bytes: &[u8], wanted: [usize; 2]) {
        let said = |row: Row| {
            (row.line.to_vec(), row.columns, row.wanted.map(|field| (field.text().to_vec(), field.number())))
        };
        let mut expected = Vec::new();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            expected.push(said(split(line, b',', wanted)));
        }
        let mut found = Vec::new();
        Scan::new().rows(bytes, b',', wanted, |row| found.push(said(row)));
        assert_eq!(found, expected);
        let mut portable = Vec::new();
        let mut scan = Scan::new();
        #[cfg(target_arch = "x86_64")]
        {
            scan.wide = None;
        }
        scan.rows(bytes, b',', wanted, |row| portable.push(said(row)));
        assert_eq!(portable, expected);
    }

    #[test]
    fn rows_say_what_they_hold() {
        let mut rows = Vec::new();
        Scan::new()
            .rows(b"a,b,c\n\nd,e\r\nlast", b',', [0, 1], |row| rows.push((row.columns, row.wanted.map(Field::text))));
        let expected: [(usize, [&[u8]; 2]); 4] =
            [(3, [b"a", b"b"]), (0, [b"", b""]), (2, [b"d", b"e"]), (1, [b"last", b""])];
        assert_eq!(rows, expected);
        holds(&b"x,".repeat(5_000));
        holds(&b",\n".repeat(5_000));
    }

    #[test]
    fn numbers_are_read_as_they_stand() {
        let number = |text: &str| {
            let row = format!("some,thing,{text}");
            let (alone, in_row) = (Field::of(text.as_bytes(), 0, text.len()), Field::of(row.as_bytes(), 11, row.len()));
            assert_eq!(alone.number(), in_row.number(), "{text}");
            in_row.number()
        };
        for value in [0, 7, 42, 1_358, 99_999_999, 100_000_000, 12_345_678, u64::from(u32::MAX) + 1, u64::MAX] {
            assert_eq!(number(&value.to_string()), value);
        }
        assert_eq!(number("00000012"), 12);
        for text in ["", "-1", "1.5", "1:2", "/1", "12 ", "1e3", "abcdefgh", "1234567é", "123456789x"] {
            assert_eq!(number(text), 0, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_short_field_is_the_number_it_spells(text in "[0-9:/a]{0,9}") {
            let row = format!("0123456789,{text}");
            let expected = text.parse().unwrap_or(0);
            prop_assert_eq!(Field::of(row.as_bytes(), 11, row.len()).number(), expected);
        }

        #[test]
        fn any_bytes_are_split_alike(bytes in prop::collection::vec(prop_oneof![Just(b','), Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..6_000)) {
            holds(&bytes);
        }
    }
}
