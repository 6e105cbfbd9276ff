//! Capture files: pcap and pcapng, as bytes come.
//!
//! Reads what libpcap's reader does and more: both byte orders, micro- and nanoseconds, the longer records of Kuznetzov's
//! libpcap and the header of Ixia's, and in pcapng sections, several interfaces of different link types and time units in one
//! file. It does no reading itself: bytes are put in by
//! [`Savefile::space`] and [`Savefile::filled`], frames come out by [`Savefile::frame`], and so a file, a pipe and a
//! test are the same. Memory is bounded by [`MAX_FRAME`] and [`MAX_INTERFACES`] whatever the bytes say.
//!
//! Formats: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html> and
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>.

use crate::flow::Stamp;

/// The largest frame that is read, bytes: libpcap's own limit for every link type decoded here.
pub const MAX_FRAME: usize = 262_144;

/// The most interfaces of one pcapng section.
pub const MAX_INTERFACES: usize = 65_536;

/// How many bytes are asked for at once. From the measurement: larger reads are no faster.
const READ: usize = 256 * 1024;

/// The largest pcapng block that is read whole: a frame and its options. Larger blocks of other kinds are skipped.
const MAX_BLOCK: usize = MAX_FRAME + 65_536;

/// The bytes are not a capture file, or are damaged from here on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The first bytes belong to neither format.
    #[error("this is not a pcap or pcapng file (it begins with {0:02x?})")]
    NotACapture([u8; 4]),
    /// A frame or block states a length that cannot be.
    #[error("damaged at byte {at}: a length of {length} bytes is stated there")]
    Length {
        /// Where in the file, from 0.
        at: u64,
        /// What is stated.
        length: u64,
    },
    /// A pcapng frame names an interface that the section has not described.
    #[error("damaged at byte {at}: interface {interface} is not described before it")]
    Interface {
        /// Where in the file, from 0.
        at: u64,
        /// Its number.
        interface: u32,
    },
    /// More interfaces than any capture has.
    #[error("damaged at byte {at}: more than {MAX_INTERFACES} interfaces")]
    Interfaces {
        /// Where in the file, from 0.
        at: u64,
    },
}

/// One frame as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// The number of the link type.
    pub link_type: u32,
    /// When it was captured.
    pub stamp: Stamp,
    /// Its length on the wire.
    pub wire_len: u32,
    /// What was kept of it.
    pub bytes: &'a [u8],
}

/// How many ticks a second has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ticks {
    /// 10 to this power.
    Decimal(u8),
    /// 2 to this power.
    Binary(u8),
}

impl Ticks {
    /// The stamp, and whether that is what the file says: [`Stamp`] has the years from 0 to 9999.
    fn stamp(self, ticks: u64, offset: i64) -> (Stamp, bool) {
        let micros = match self {
            Self::Decimal(power @ 0..=6) => u128::from(ticks) * 10u128.pow(u32::from(6 - power)),
            Self::Decimal(power @ 7..=38) => u128::from(ticks) / 10u128.pow(u32::from(power - 6)),
            Self::Decimal(_) => 0,
            Self::Binary(power) => (u128::from(ticks) * 1_000_000).checked_shr(u32::from(power)).unwrap_or(0),
        };
        let shifted = i128::try_from(micros).unwrap_or(i128::MAX).saturating_add(i128::from(offset) * 1_000_000);
        let most = if shifted < 0 { i64::MIN } else { i64::MAX };
        let stamp = Stamp::from_micros(i64::try_from(shifted).unwrap_or(most));
        (stamp, i128::from(stamp.micros()) == shifted)
    }
}

/// A pcapng interface description.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: u32,
    snaplen: u32,
    ticks: Ticks,
    /// Seconds added to every stamp.
    offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let raw = [bytes[at], bytes[at + 1]];
        if self == Self::Little { u16::from_le_bytes(raw) } else { u16::from_be_bytes(raw) }
    }

    #[inline]
    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let raw = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self == Self::Little { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) }
    }
}

/// Which of a pcap record's two lengths comes first; writers before version 2.4 of the format did not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    /// Bytes kept, then bytes on the wire.
    KeptFirst,
    /// The other way round, before version 2.3.
    WireFirst,
    /// Either, in version 2.3: what is kept is the smaller one.
    Unsure,
}

#[derive(Debug)]
enum Format {
    /// Nothing read yet.
    Unknown,
    Pcap {
        order: Order,
        link_type: u32,
        ticks: Ticks,
        lengths: Lengths,
        /// Bytes before each frame.
        record_header: usize,
    },
    Pcapng {
        order: Order,
        interfaces: Vec<Interface>,
    },
}

/// A reader of one capture file; see the module.
#[derive(Debug)]
pub struct Savefile {
    format: Format,
    buffer: Vec<u8>,
    /// What is not read yet: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Bytes of a block that are dropped as they come.
    skip: u64,
    /// Where `start` is in the file.
    at: u64,
    /// Of the last frame; simple packet blocks have none of their own.
    last: Stamp,
    beyond: u64,
}

impl Default for Savefile {
    fn default() -> Self {
        Self::new()
    }
}

/// What the front of the buffer is.
enum Step {
    /// A frame: the length of the record, where its bytes lie, and what the header says.
    Frame { record: usize, from: usize, to: usize, link_type: u32, stamp: (Stamp, bool), wire_len: u32 },
    /// Something of this length without a frame.
    Other { length: u64 },
    /// More bytes are needed.
    Wait,
}

impl Savefile {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        let (buffer, last) = (Vec::new(), Stamp::default());
        Self { format: Format::Unknown, buffer, start: 0, end: 0, skip: 0, at: 0, last, beyond: 0 }
    }

    /// Frames so far whose stamps lie before the year 0 or after 9999, and were taken for the nearest that does not.
    pub fn stamps_beyond(&self) -> u64 {
        self.beyond
    }

    /// The numbers of the link types that the file has told so far.
    pub fn link_types(&self) -> Vec<u32> {
        match &self.format {
            Format::Unknown => Vec::new(),
            Format::Pcap { link_type, .. } => vec![*link_type],
            Format::Pcapng { interfaces, .. } => interfaces.iter().map(|interface| interface.link_type).collect(),
        }
    }

    /// Room for the next bytes of the file, never empty. To be filled from the front and told by [`Savefile::filled`].
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.end + READ {
            self.buffer.resize(self.end + READ, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Takes the first `len` bytes of what [`Savefile::space`] lent.
    pub fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.buffer.len());
        self.drop_skipped();
    }

    /// True when the bytes so far end with a whole record: a file that ends otherwise was cut off.
    pub fn is_at_boundary(&self) -> bool {
        self.start == self.end && self.skip == 0 && !matches!(self.format, Format::Unknown)
    }

    /// The next frame, or `None` when more bytes are needed for it. After an error there is nothing more to read.
    ///
    /// # Errors
    ///
    /// The bytes are not those of a capture file from here on.
    #[inline]
    pub fn frame(&mut self) -> Result<Option<Captured<'_>>, FormatError> {
        loop {
            let step = match &self.format {
                Format::Pcap { order, link_type, ticks, lengths, record_header } => {
                    self.pcap_record(*order, *link_type, *ticks, *lengths, *record_header)?
                }
                _ if self.skip > 0 => Step::Wait,
                Format::Unknown => self.begin()?,
                Format::Pcapng { .. } => self.block()?,
            };
            match step {
                Step::Wait => return Ok(None),
                Step::Other { length } => {
                    self.skip = length;
                    self.drop_skipped();
                }
                Step::Frame { record, from, to, link_type, stamp, wire_len } => {
                    let (from, to) = (self.start + from, self.start + to);
                    self.start += record;
                    self.at += record as u64;
                    let (stamp, is_told) = stamp;
                    self.beyond += u64::from(!is_told);
                    self.last = stamp;
                    let bytes = &self.buffer[from..to];
                    return Ok(Some(Captured { link_type, stamp, wire_len, bytes }));
                }
            }
        }
    }

    fn drop_skipped(&mut self) {
        let dropped = self.skip.min((self.end - self.start) as u64);
        self.skip -= dropped;
        self.start += dropped as usize;
        self.at += dropped;
    }

    fn front(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Recognises the format.
    fn begin(&mut self) -> Result<Step, FormatError> {
        let Some(magic) = self.front().first_chunk::<4>().copied() else { return Ok(Step::Wait) };
        // The order, the digits of a second's fraction, the length of the file's header and of a record's.
        let (order, power, file_header, record_header) = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, 6, 24, 16),
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, 6, 24, 16),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, 9, 24, 16),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, 9, 24, 16),
            // Kuznetzov's: interface, protocol and direction of each frame follow the lengths.
            [0x34, 0xcd, 0xb2, 0xa1] => (Order::Little, 6, 24, 24),
            [0xa1, 0xb2, 0xcd, 0x34] => (Order::Big, 6, 24, 24),
            // Ixia's, of its hardware and of its software: the bytes of all records follow the header.
            [0xab | 0xac, 0x01, 0x00, 0x1c] => (Order::Little, 6, 28, 16),
            [0x1c, 0x00, 0x01, 0xab | 0xac] => (Order::Big, 6, 28, 16),
            [0x0a, 0x0d, 0x0d, 0x0a] => {
                self.format = Format::Pcapng { order: Order::Little, interfaces: Vec::new() };
                return self.block();
            }
            other => return Err(FormatError::NotACapture(other)),
        };
        let Some(header) = self.front().first_chunk::<24>() else { return Ok(Step::Wait) };
        // The upper bits state the length of the frames' check sequence, which no count needs.
        let link_type = order.u32(header, 20) & 0xffff;
        let lengths = match (order.u16(header, 4), order.u16(header, 6)) {
            (2, 0..=2) => Lengths::WireFirst,
            (2, 3) => Lengths::Unsure,
            _ => Lengths::KeptFirst,
        };
        self.format = Format::Pcap { order, link_type, ticks: Ticks::Decimal(power), lengths, record_header };
        Ok(Step::Other { length: file_header })
    }

    #[inline]
    fn pcap_record(
        &self,
        order: Order,
        link_type: u32,
        ticks: Ticks,
        lengths: Lengths,
        header_len: usize,
    ) -> Result<Step, FormatError> {
        if self.skip > 0 {
            return Ok(Step::Wait);
        }
        let front = self.front();
        let Some(header) = front.first_chunk::<16>() else { return Ok(Step::Wait) };
        let (first, second) = (order.u32(header, 8), order.u32(header, 12));
        let swapped = lengths != Lengths::KeptFirst && (lengths == Lengths::WireFirst || first > second);
        let (kept, wire_len) = if swapped { (second as usize, first) } else { (first as usize, second) };
        if kept > MAX_FRAME {
            return Err(FormatError::Length { at: self.at, length: kept as u64 });
        }
        let record = header_len + kept;
        if front.len() < record {
            return Ok(Step::Wait);
        }
        let (secs, fraction) = (i64::from(order.u32(header, 0)), order.u32(header, 4));
        let micros = if ticks == Ticks::Decimal(9) { fraction / 1000 } else { fraction };
        let stamp = (Stamp::new(secs, micros), true);
        Ok(Step::Frame { record, from: header_len, to: record, link_type, stamp, wire_len })
    }

    /// One pcapng block.
    fn block(&mut self) -> Result<Step, FormatError> {
        let front = &self.buffer[self.start..self.end];
        let Format::Pcapng { order, interfaces } = &mut self.format else { return Ok(Step::Wait) };
        let Some(head) = front.first_chunk::<12>() else { return Ok(Step::Wait) };
        if head[..4] == [0x0a, 0x0d, 0x0d, 0x0a] {
            *order = match head[8..] {
                [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
                [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
                _ => return Err(FormatError::NotACapture([head[8], head[9], head[10], head[11]])),
            };
        }
        let (order, kind, length) = (*order, order.u32(head, 0), order.u32(head, 4) as usize);
        if length < 12 || length % 4 != 0 {
            return Err(FormatError::Length { at: self.at, length: length as u64 });
        }
        if !matches!(kind, 1 | 2 | 3 | 6 | 0x0a0d_0d0a) {
            return Ok(Step::Other { length: length as u64 });
        }
        if length > MAX_BLOCK {
            return Err(FormatError::Length { at: self.at, length: length as u64 });
        }
        let Some(block) = front.get(..length) else { return Ok(Step::Wait) };
        let body = &block[8..length - 4];
        let damaged = FormatError::Length { at: self.at, length: length as u64 };
        match kind {
            0x0a0d_0d0a => interfaces.clear(),
            1 => {
                if interfaces.len() == MAX_INTERFACES {
                    return Err(FormatError::Interfaces { at: self.at });
                }
                interfaces.push(interface(order, body).ok_or(damaged)?);
            }
            3 => {
                let first = interfaces.first().ok_or(FormatError::Interface { at: self.at, interface: 0 })?;
                let (wire_len, data) = (order.u32(body.get(..4).ok_or(damaged)?, 0), &body[4..]);
                let limit = if first.snaplen == 0 { u32::MAX } else { first.snaplen };
                let to = 12 + data.len().min(wire_len.min(limit) as usize).min(MAX_FRAME);
                let (link_type, stamp) = (first.link_type, (self.last, true));
                return Ok(Step::Frame { record: length, from: 12, to, link_type, stamp, wire_len });
            }
            // The enhanced packet block, and the obsolete one whose interface number has 16 bits.
            _ => {
                let header = body.get(..20).ok_or(damaged.clone())?;
                let number = if kind == 6 { order.u32(header, 0) } else { u32::from(order.u16(header, 0)) };
                let interface =
                    interfaces.get(number as usize).ok_or(FormatError::Interface { at: self.at, interface: number })?;
                let ticks = u64::from(order.u32(header, 4)) << 32 | u64::from(order.u32(header, 8));
                let kept = order.u32(header, 12) as usize;
                if kept > MAX_FRAME || kept > body.len() - 20 {
                    return Err(damaged);
                }
                let stamp = interface.ticks.stamp(ticks, interface.offset);
                let (link_type, wire_len) = (interface.link_type, order.u32(header, 16));
                return Ok(Step::Frame { record: length, from: 28, to: 28 + kept, link_type, stamp, wire_len });
            }
        }
        Ok(Step::Other { length: length as u64 })
    }
}

/// Reads an interface description block's body.
fn interface(order: Order, body: &[u8]) -> Option<Interface> {
    let header = body.get(..8)?;
    let mut interface = Interface {
        link_type: u32::from(order.u16(header, 0)),
        snaplen: order.u32(header, 4),
        ticks: Ticks::Decimal(6),
        offset: 0,
    };
    let mut options = &body[8..];
    while let Some(head) = options.get(..4) {
        let (code, len) = (order.u16(head, 0), usize::from(order.u16(head, 2)));
        let Some(value) = options.get(4..4 + len) else { break };
        match (code, value) {
            (0, _) => break,
            (9, [power, ..]) if power & 0x80 != 0 => interface.ticks = Ticks::Binary(power & 0x7f),
            (9, [power, ..]) => interface.ticks = Ticks::Decimal(*power),
            (14, [_, _, _, _, _, _, _, _]) => {
                let (low, high) = (u64::from(order.u32(value, 0)), u64::from(order.u32(value, 4)));
                let (low, high) = if order == Order::Little { (low, high) } else { (high, low) };
                interface.offset = (high << 32 | low).cast_signed();
            }
            _ => {}
        }
        options = options.get(4 + len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Owned = (u32, i64, u32, Vec<u8>);

    /// Reads `file` in pieces of `piece` bytes.
    fn read(file: &[u8], piece: usize) -> (Vec<Owned>, Result<bool, FormatError>) {
        let mut reader = Savefile::new();
        let mut frames = Vec::new();
        for part in file.chunks(piece) {
            let mut part = part;
            while !part.is_empty() {
                let space = reader.space();
                let len = space.len().min(part.len());
                space[..len].copy_from_slice(&part[..len]);
                reader.filled(len);
                part = &part[len..];
                loop {
                    match reader.frame() {
                        Ok(Some(frame)) => {
                            let Captured { link_type, stamp, wire_len, bytes } = frame;
                            frames.push((link_type, stamp.micros(), wire_len, bytes.to_vec()));
                        }
                        Ok(None) => break,
                        Err(error) => return (frames, Err(error)),
                    }
                }
            }
        }
        (frames, Ok(reader.is_at_boundary()))
    }

    fn pcap(magic: [u8; 4], link_type: u32, records: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let big = magic[0] == 0xa1;
        let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut file = magic.to_vec();
        file.extend([0; 16]);
        file.extend(word(link_type));
        for (secs, fraction, bytes) in records {
            for n in [*secs, *fraction, bytes.len() as u32, bytes.len() as u32 + 7] {
                file.extend(word(n));
            }
            file.extend(*bytes);
        }
        file
    }

    #[test]
    fn pcap_in_both_orders_and_units_and_any_pieces() {
        for (magic, fraction) in [
            ([0xd4, 0xc3, 0xb2, 0xa1], 5),
            ([0xa1, 0xb2, 0xc3, 0xd4], 5),
            ([0x4d, 0x3c, 0xb2, 0xa1], 5_999),
            ([0xa1, 0xb2, 0x3c, 0x4d], 5_999),
        ] {
            let file = pcap(magic, 0x1000_0001, &[(7, fraction, b"abc"), (8, 0, b""), (9, 0, &[1; 1000])]);
            for piece in [1, 3, 17, 1 << 20] {
                let (frames, end) = read(&file, piece);
                assert_eq!(end, Ok(true));
                assert_eq!(frames.len(), 3);
                assert_eq!(frames[0], (1, 7_000_005, 10, b"abc".to_vec()));
                assert_eq!(frames[2].3.len(), 1000);
            }
            assert_eq!(read(&file[..file.len() - 1], 64).1, Ok(false), "a file that was cut off");
        }
    }

    #[test]
    fn the_lengths_of_old_files_come_the_other_way_round() {
        let record = |kept: u32, wire: u32| [7, 0, kept, wire].map(u32::to_le_bytes).concat();
        let file = |minor: u8, first: u32, second: u32| {
            let mut file = pcap([0xd4, 0xc3, 0xb2, 0xa1], 1, &[]);
            file[4..8].copy_from_slice(&[2, 0, minor, 0]);
            [file, record(first, second), vec![1; 3]].concat()
        };
        for (minor, first, second) in [(4, 3, 9), (3, 3, 9), (3, 9, 3), (2, 9, 3), (0, 9, 3)] {
            let (frames, end) = read(&file(minor, first, second), 64);
            assert_eq!(end, Ok(true), "2.{minor}");
            assert_eq!(frames, [(1, 7_000_000, 9, vec![1; 3])], "2.{minor}");
        }
    }

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let body = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
        let length = (body.len() as u32 + 12).to_be_bytes();
        [&kind.to_be_bytes()[..], &length, &body, &length].concat()
    }

    fn words(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    #[test]
    fn pcapng_with_interfaces_of_their_own_units() {
        let section = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 0x0001_0000, u32::MAX, u32::MAX]));
        let nanos = block(1, &[&words(&[1 << 16, 0])[..], &[0, 9, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0]].concat());
        let halves = block(
            1,
            &[&words(&[101 << 16, 2])[..], &[0, 9, 0, 1, 0x81, 0, 0, 0, 0, 14, 0, 8, 0, 0, 0, 0, 0, 0, 0, 100]]
                .concat(),
        );
        let frame = |interface: u32, ticks: u64, bytes: &[u8]| {
            let head = words(&[interface, (ticks >> 32) as u32, ticks as u32, bytes.len() as u32, 99]);
            block(6, &[&head[..], bytes].concat())
        };
        let unknown = block(0x0bad, &vec![0; 100_000]);
        let simple = block(3, &[&words(&[4])[..], b"wxyz"].concat());
        let file = [
            section.clone(),
            nanos,
            halves.clone(),
            frame(0, 1_700_000_000_123_456_789, b"abc"),
            unknown,
            frame(1, 7, b"de"),
            simple,
            section,
            halves,
            frame(0, 2, b"f"),
        ]
        .concat();
        for piece in [1, 13, 1 << 20] {
            let (frames, end) = read(&file, piece);
            assert_eq!(end, Ok(true));
            let want: [Owned; 4] = [
                (1, 1_700_000_000_123_456, 99, b"abc".to_vec()),
                (101, 103_500_000, 99, b"de".to_vec()),
                (1, 103_500_000, 4, b"wxyz".to_vec()),
                (101, 101_000_000, 99, b"f".to_vec()),
            ];
            assert_eq!(frames, want);
        }
        let stray = [&file[..28], &frame(3, 0, b"")].concat();
        assert_eq!(read(&stray, 64).1, Err(FormatError::Interface { at: 28, interface: 3 }));
    }

    #[test]
    fn the_headers_of_modified_libpcaps_are_read() {
        for (magic, after_file_header, after_header, fraction) in [
            ([0x34, 0xcd, 0xb2, 0xa1], 0, 8, 5),
            ([0xa1, 0xb2, 0xcd, 0x34], 0, 8, 5),
            ([0xac, 0x01, 0x00, 0x1c], 4, 0, 5),
            ([0x1c, 0x00, 0x01, 0xab], 4, 0, 5),
        ] {
            let mut file = pcap([magic[0], 0, 0, 0], 1, &[]);
            if matches!(magic[0], 0xa1 | 0x1c) {
                file = pcap([0xa1, 0, 0, 0], 1, &[]);
            }
            file[..4].copy_from_slice(&magic);
            file.resize(file.len() + after_file_header, 9);
            let is_big = matches!(magic[0], 0xa1 | 0x1c);
            for _ in 0..2 {
                for n in [7, fraction, 3, 10_u32] {
                    file.extend(if is_big { n.to_be_bytes() } else { n.to_le_bytes() });
                }
                file.resize(file.len() + after_header, 9);
                file.extend(b"abc");
            }
            for piece in [1, 1 << 20] {
                let (frames, end) = read(&file, piece);
                assert_eq!(end, Ok(true), "{magic:02x?}");
                assert_eq!(frames, vec![(1, 7_000_005, 10, b"abc".to_vec()); 2], "{magic:02x?}");
            }
        }
    }

    #[test]
    fn stamps_before_1970_and_after_2106_are_as_they_are() {
        let of = |ticks, offset| Ticks::Decimal(6).stamp(ticks, offset);
        assert_eq!(of(500_000, -10), (Stamp::from_micros(-9_500_000), true));
        assert_eq!(of(0, 5_000_000_000), (Stamp::new(5_000_000_000, 0), true));
        assert_eq!(of(u64::MAX, 0), (Stamp::MAX, false));
        assert_eq!(of(0, i64::MIN), (Stamp::MIN, false));
    }

    #[test]
    fn what_is_no_capture_is_said() {
        assert_eq!(read(b"SRC_IP,DST_IP", 64).1, Err(FormatError::NotACapture(*b"SRC_")));
        assert_eq!(read(b"", 64).1, Ok(false));
        let mut file = pcap([0xd4, 0xc3, 0xb2, 0xa1], 1, &[(7, 0, b"abc")]);
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0x93, 4, 0, 0, 0, 0, 0]);
        let (frames, end) = read(&file, 64);
        assert_eq!((frames.len(), end), (1, Err(FormatError::Length { at: 43, length: 300_000 })));
    }
}
