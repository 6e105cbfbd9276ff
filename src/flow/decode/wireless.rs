//! IEEE 802.11 and what monitors put before it: radiotap, Prism, AVS, PPI.
//!
//! Data frames that are neither encrypted nor a later fragment carry LLC and SNAP. Everything else is no IP that can be seen.
//! An A-MSDU carries several packets in one frame: it is not counted, because counting its first would be wrong.

use super::{Decoder, Ends, Halt, LinkType, Packet, Reject, take};

/// Radiotap's field "flags": the 802.11 header is padded to a multiple of four bytes.
const PADDED: u8 = 0x20;

/// Radiotap's field "flags": the check sequence was wrong, so the bytes are not what was sent.
const DAMAGED: u8 = 0x40;

impl Decoder {
    pub(super) fn wireless(&mut self, link_type: LinkType, frame: &[u8]) -> Result<Packet, Halt> {
        match link_type {
            LinkType::Radiotap => {
                let (head, _) = take::<8>(frame)?;
                let rest = frame.get(usize::from(u16::from_le_bytes([head[2], head[3]])).max(8)..).ok_or(Ends)?;
                match radiotap_flags(frame) {
                    flags if flags & DAMAGED != 0 => Err(Reject::BadLength.into()),
                    flags => self.data(rest, flags & PADDED != 0),
                }
            }
            LinkType::Prism => {
                let (head, _) = take::<8>(frame)?;
                // AVS, whose magic begins with these bytes, is big-endian; Prism has the byte order of its writer, and
                // lengths are far below 65,536.
                let word = [head[4], head[5], head[6], head[7]];
                let len = match head {
                    [0x80, 0x21, 0x10, ..] | [_, _, _, _, 0, 0, ..] => u32::from_be_bytes(word),
                    _ => u32::from_le_bytes(word),
                };
                self.data(frame.get((len as usize).max(8)..).ok_or(Ends)?, false)
            }
            LinkType::Ppi => {
                let (head, _) = take::<8>(frame)?;
                let rest = frame.get(usize::from(u16::from_le_bytes([head[2], head[3]])).max(8)..).ok_or(Ends)?;
                match u32::from_le_bytes([head[4], head[5], head[6], head[7]]) {
                    105 => self.data(rest, false),
                    1 => self.frame(LinkType::Ethernet, rest),
                    _ => Err(Reject::LinkType.into()),
                }
            }
            _ => self.data(frame, false),
        }
    }

    /// An 802.11 frame.
    fn data(&mut self, frame: &[u8], is_padded: bool) -> Result<Packet, Halt> {
        let (control, _) = take::<2>(frame)?;
        let (is_data, has_quality) = (control[0] & 0x0f == 8, control[0] & 0x80 != 0);
        let (to_system, from_system) = (control[1] & 1 != 0, control[1] & 2 != 0);
        let (is_encrypted, has_order) = (control[1] & 0x40 != 0, control[1] & 0x80 != 0);
        // Subtypes with this bit carry nothing.
        if !is_data || control[0] & 0x40 != 0 || is_encrypted {
            return Err(Reject::NotIp.into());
        }
        let (header, _) = take::<24>(frame)?;
        if header[22] & 0x0f != 0 {
            return Err(Reject::NotIp.into());
        }
        let mut len = if to_system && from_system { 30 } else { 24 };
        let [dst, src] = match (to_system, from_system) {
            (false, false) => [&header[4..10], &header[10..16]],
            (true, false) => [&header[16..22], &header[10..16]],
            (false, true) => [&header[4..10], &header[16..22]],
            (true, true) => [&header[16..22], frame.get(24..30).ok_or(Ends)?],
        };
        self.link.dst_mac.copy_from_slice(dst);
        self.link.src_mac.copy_from_slice(src);
        if has_quality {
            let quality = frame.get(len..len + 2).ok_or(Ends)?;
            if quality[0] & 0x80 != 0 {
                return Err(Reject::NotIp.into());
            }
            len += if has_order { 6 } else { 2 };
        }
        if is_padded {
            len = len.next_multiple_of(4);
        }
        self.llc(frame.get(len..).ok_or(Ends)?)
    }
}

/// Radiotap's field "flags", 0 where there is none. It is the second: behind the words that tell which fields there are, and
/// the eight bytes of a time on a multiple of eight.
fn radiotap_flags(header: &[u8]) -> u8 {
    let word = |at: usize| header.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    let Some(first) = word(4) else { return 0 };
    let mut at = 8;
    let mut more = first;
    while more & 1 << 31 != 0 {
        let Some(next) = word(at) else { return 0 };
        more = next;
        at += 4;
    }
    if first & 1 != 0 {
        at = at.next_multiple_of(8) + 8;
    }
    if first & 2 != 0 { header.get(at).copied().unwrap_or(0) } else { 0 }
}
