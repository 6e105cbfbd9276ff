//! Where the fields of a row begin: the separator, found from the lines themselves, and a scan of whole rows.
//!
//! [`Scan`] tells of every row how many columns it has and what two of them say, in one pass over vectors of separators, and
//! leaves the [`Edges`] it found to whoever packs the rows. It promises what a split of each line would find, for any bytes. It
//! never judges a row.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

pub(crate) mod lanes;

use lanes::{LEAD, Lanes, Path, Words};
#[cfg(target_arch = "x86_64")]
use lanes::{Wide, Wider};

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
    /// Up to eight digits are read as one word and added up in pairs, fours and eights: a loop over the digits would
    /// mispredict its exit.
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

/// The most bytes whose edges are found at once. Everything that is noted of so many stays in the second level cache with them.
pub(crate) const CHUNK: usize = 256 * 1024;
/// Bytes after which the rows found so far are handed out, while they are still in the first level cache.
const STRIP: usize = 2048;
/// The most edges that are read at once.
const RUN: usize = 1 << 13;
/// Room that [`Lanes::spread`] may write to behind the last place.
const SPREAD: usize = 64;

/// Where the fields and the rows of a chunk end.
pub struct Edges {
    /// Where the first field starts, and where the one after each field does: the chunk's first byte is place [`LEAD`].
    places: Box<[u32]>,
    fields: usize,
    /// The number of the last field of each row.
    last: Box<[u32]>,
    rows: usize,
    /// Up to where they were found.
    to: usize,
    path: Path,
}

impl Edges {
    /// None yet. Takes 2 MB, of which rows touch a tenth.
    pub(crate) fn new(path: Path) -> Self {
        Self {
            places: vec![0; CHUNK + SPREAD.max(RUN)].into_boxed_slice(),
            fields: 0,
            last: vec![0; CHUNK + SPREAD].into_boxed_slice(),
            rows: 0,
            to: LEAD,
            path,
        }
    }

    /// Forgets the chunk.
    fn clear(&mut self) {
        (self.fields, self.rows, self.to) = (0, 0, LEAD);
        self.places[0] = LEAD as u32;
    }

    /// Finds those of a chunk, of at most [`CHUNK`] bytes.
    pub(crate) fn find(&mut self, chunk: &[u8], separator: u8) {
        self.clear();
        self.go_on(chunk, separator);
    }

    /// Finds those of the chunk's next bytes.
    fn go_on(&mut self, bytes: &[u8], separator: u8) {
        debug_assert!(self.to - LEAD + bytes.len() <= CHUNK, "more than a chunk");
        match self.path {
            Path::Words => find(Words, bytes, separator, self),
            // SAFETY: a `Wide` exists only where all the features of `find_wide` were detected.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Path::Wide(wide) => unsafe { find_wide(wide, bytes, separator, self) },
            // SAFETY: a `Wider` exists only where all the features of `find_wider` were detected.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Path::Wider(wider) => unsafe { find_wider(wider, bytes, separator, self) },
        }
    }

    /// How many bytes they are of.
    pub(crate) fn bytes(&self) -> usize {
        self.to - LEAD
    }

    /// How many fields have their end.
    pub(crate) fn fields(&self) -> usize {
        self.fields
    }

    /// The number of the last field of each row.
    pub(crate) fn rows(&self) -> &[u32] {
        &self.last[..self.rows]
    }

    /// Where field `number` starts, and where it and those behind it end; behind the last field they say nothing.
    #[inline(always)]
    pub(crate) fn run<const N: usize>(&self, number: usize) -> &[u32; N] {
        const { assert!(N <= RUN) };
        self.places.get(number..).and_then(<[u32]>::first_chunk).unwrap_or(&[0; N])
    }

    /// Where field `number` starts and where the next one does.
    #[inline(always)]
    pub(crate) fn field(&self, number: usize) -> (usize, usize) {
        let &[start, next] = self.run(number);
        (start as usize, next as usize)
    }
}

impl std::fmt::Debug for Edges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edges").field("fields", &self.fields).field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// Scans rows; keeps its memory from call to call.
#[derive(Debug)]
pub struct Scan {
    edges: Edges,
}

impl Default for Scan {
    fn default() -> Self {
        Self::new()
    }
}

impl Scan {
    /// A scan for the CPU it runs on.
    #[must_use]
    pub fn new() -> Self {
        Self { edges: Edges::new(Path::best()) }
    }

    /// How many bytes of `rest` to scan at once: whole rows of a [chunk](CHUNK) at most, or one row that is longer.
    #[must_use]
    pub fn chunk(rest: &[u8]) -> usize {
        let long = || memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        whole_rows(rest).unwrap_or_else(long)
    }

    /// Calls `each` with every row of `chunk`, in order; returns the edges found, unless the chunk is too long for that. Columns
    /// are counted from 0; the last row may lack its newline.
    pub fn rows<'a>(
        &mut self,
        chunk: &'a [u8],
        separator: u8,
        wanted: [usize; 2],
        mut each: impl FnMut(Row<'a>),
    ) -> Option<&Edges> {
        if chunk.len() > CHUNK {
            chunk.split_inclusive(|&byte| byte == b'\n').for_each(|line| each(split(line, separator, wanted)));
            return None;
        }
        let edges = &mut self.edges;
        edges.clear();
        let (mut row, mut first) = (0, 0);
        for strip in chunk.chunks(STRIP) {
            edges.go_on(strip, separator);
            for &last in &edges.last[row..edges.rows] {
                let places = &edges.places[first..last as usize + 2];
                let place = |number: usize| places[number] as usize - LEAD;
                let columns = places.len() - 1;
                let field = |column: usize| {
                    if column < columns {
                        Field::of(chunk, place(column), place(column + 1) - 1)
                    } else {
                        Field::default()
                    }
                };
                let line = &chunk[place(0)..place(columns)];
                each(tidy(Row { line, columns, wanted: wanted.map(field) }, wanted));
                first = last as usize + 1;
            }
            row = edges.rows;
        }
        let open = &chunk[edges.places[first] as usize - LEAD..];
        if !open.is_empty() {
            each(split(open, separator, wanted));
        }
        Some(&self.edges)
    }
}

/// How many bytes of `rest` to make a chunk of: all, if they fit; else whole rows that leave equal parts for the chunks to come,
/// so that the last one is not small; `None` when no row ends within a chunk.
pub(crate) fn whole_rows(rest: &[u8]) -> Option<usize> {
    let Some(most) = rest.get(..CHUNK).filter(|most| most.len() < rest.len()) else { return Some(rest.len()) };
    let part = rest.len() / rest.len().div_ceil(CHUNK) - 1;
    let fair = memchr::memchr(b'\n', &most[part..]).map(|at| part + at);
    fair.or_else(|| memchr::memrchr(b'\n', most)).map(|at| at + 1)
}

/// [`find`], compiled for CPUs with these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn find_wide(wide: Wide, bytes: &[u8], separator: u8, edges: &mut Edges) {
    find(wide, bytes, separator, edges);
}

/// [`find`] for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2")]
fn find_wider(wider: Wider, bytes: &[u8], separator: u8, edges: &mut Edges) {
    find(wider, bytes, separator, edges);
}

/// Appends the edges of the chunk's next `bytes`.
#[inline(always)]
fn find<L: Lanes>(lanes: L, bytes: &[u8], separator: u8, edges: &mut Edges) {
    let Edges { places, last, .. } = edges;
    let (mut fields, mut rows) = (edges.fields, edges.rows);
    let (blocks, tail) = bytes.as_chunks::<64>();
    let mut padded = [0; 64];
    padded[..tail.len()].copy_from_slice(tail);
    for (at, block) in blocks.iter().chain([&padded]).enumerate() {
        let real = if at < blocks.len() { u64::MAX } else { (1 << tail.len()) - 1 };
        let marks = lanes.marks(block, separator) & real;
        let mut newlines = lanes.marks(block, b'\n') & real;
        let found = newlines.count_ones() as usize;
        let mut last_field = |row: &mut u32| {
            let before = newlines & newlines.wrapping_neg();
            *row = fields as u32 + (marks & before.wrapping_sub(1)).count_ones();
            newlines &= newlines.wrapping_sub(1);
        };
        // Always writes two, for the same reason as [`Lanes::spread`] writes ten.
        if let Some(room) = last.get_mut(rows..).and_then(|room| room.first_chunk_mut::<2>()) {
            room.iter_mut().for_each(&mut last_field);
        }
        last[(rows + 2).min(rows + found)..rows + found].iter_mut().for_each(last_field);
        rows += found;
        fields = lanes.spread(&mut places[1..], fields, (edges.to + at * 64) as u32 + 1, marks);
    }
    (edges.fields, edges.rows) = (fields, rows);
    edges.to += bytes.len();
}

/// What [`Scan::rows`] tells of one row, by splitting it.
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
        let (mut fields, mut rows) = (Vec::new(), Vec::new());
        for (at, byte) in bytes.iter().enumerate().filter(|&(_, byte)| b",\n".contains(byte)) {
            if *byte == b'\n' {
                rows.push(fields.len() as u32);
            }
            fields.push(at + 1);
        }
        for path in Path::all() {
            let mut scan = Scan { edges: Edges::new(path) };
            let mut found = Vec::new();
            let edges = scan.rows(bytes, b',', wanted, |row| found.push(said(row)));
            assert_eq!(found, expected);
            let Some(edges) = edges else { continue };
            let next: Vec<usize> = (0..edges.fields()).map(|field| edges.field(field).1 - LEAD).collect();
            assert_eq!((edges.bytes(), &next, edges.rows()), (bytes.len(), &fields, &rows[..]));
        }
    }

    #[test]
    fn chunks_are_whole_rows_of_like_length() {
        let rows = b"a row,of some,length\n".repeat(4 * CHUNK / 21);
        let mut rest = &rows[..];
        let mut lengths = Vec::new();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(Scan::chunk(rest));
            assert!(chunk.ends_with(b"\n") && chunk.len() <= CHUNK);
            lengths.push(chunk.len());
            rest = after;
        }
        assert!(lengths.len() == 4 && lengths.iter().all(|&length| length > CHUNK - 100), "{lengths:?}");
        // Rows of which two hardly fit: nothing is longer than a chunk.
        let long = [vec![b'x'; CHUNK / 2 + 10], b"\n".to_vec()].concat().repeat(3);
        assert_eq!(Scan::chunk(&long), CHUNK / 2 + 11);
        let short_first = [b"first\n".to_vec(), vec![b'x'; 2 * CHUNK]].concat();
        assert_eq!(Scan::chunk(&short_first), 6);
        // A row longer than a chunk comes whole.
        let longer = [vec![b'x'; CHUNK], b"\nnext\n".to_vec()].concat();
        assert_eq!((Scan::chunk(&longer), whole_rows(&longer)), (CHUNK + 1, None));
        assert_eq!(Scan::chunk(&longer[..CHUNK]), CHUNK);
        holds(&longer);
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
