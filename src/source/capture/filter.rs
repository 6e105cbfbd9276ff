//! `pcap_filter` on the frames of files: compiled by libpcap once for each link type, asked with the length on the wire.

use std::ffi::c_uint;

use pcap::{BpfProgram, Linktype};

use crate::flow::decode::LinkType;

/// libpcap's number for frames that begin with IP; in files it has others.
const RAW: i32 = 12;

/// A filter for frames of files.
pub(super) struct FileFilter {
    text: Option<String>,
    programs: Vec<(i32, BpfProgram)>,
}

impl FileFilter {
    /// Of the filter's text; without one every frame is wanted.
    pub(super) fn new(text: Option<String>) -> Self {
        Self { text, programs: Vec::new() }
    }

    /// Whether the frame, of which `bytes` were kept, is wanted. Fails when the filter does not compile for the link type.
    #[inline]
    pub(super) fn takes(&mut self, number: u32, bytes: &[u8], wire_len: u32) -> Result<bool, pcap::Error> {
        if self.text.is_none() {
            return Ok(true);
        }
        let (linktype, ahead) = compiled_for(number);
        self.compile(number)?;
        let program = self.programs.iter().find(|(have, _)| *have == linktype);
        Ok(program.is_none_or(|(_, program)| matches(program, bytes.get(ahead..).unwrap_or(&[]), wire_len)))
    }

    /// Compiles the filter for a link type, unless that has been done.
    pub(super) fn compile(&mut self, number: u32) -> Result<(), pcap::Error> {
        let (linktype, _) = compiled_for(number);
        if let Some(text) = &self.text
            && !self.programs.iter().any(|(have, _)| *have == linktype)
        {
            self.programs.push((linktype, pcap::Capture::dead(Linktype(linktype))?.compile(text, true)?));
        }
        Ok(())
    }
}

/// libpcap's number for the link type, and the bytes of a frame before what the filter is shown.
fn compiled_for(number: u32) -> (i32, usize) {
    match LinkType::from_number(number) {
        Some(LinkType::RawIp) => (RAW, 0),
        // Its four bytes are an address family in the writer's byte order, with a number of the writer's system, where libpcap
        // looks for this system's. Behind them stands IP.
        Some(LinkType::Loopback) => (RAW, 4),
        _ => (i32::try_from(number).unwrap_or(i32::MAX), 0),
    }
}

// SAFETY: the declaration is that of pcap/bpf.h, in every libpcap since 1.0; the crate pcap links to it.
#[allow(unsafe_code)]
unsafe extern "C" {
    /// libpcap's interpreter of filters (bpf.h).
    fn bpf_filter(program: *const pcap::BpfInstruction, packet: *const u8, wire_len: c_uint, kept: c_uint) -> c_uint;
}

/// [`BpfProgram::filter`] takes the kept length for the one on the wire, which `len`, `greater` and `less` ask for.
fn matches(program: &BpfProgram, bytes: &[u8], wire_len: u32) -> bool {
    let kept = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    // SAFETY: the instructions are libpcap's own, compiled for it and borrowed from the program; `BpfInstruction` is its
    // bpf_insn. It reads no more than `kept` bytes of `bytes`, and whatever these are it ends: jumps go forward only.
    #[allow(unsafe_code)]
    let snaplen = unsafe { bpf_filter(program.get_instructions().as_ptr(), bytes.as_ptr(), wire_len, kept) };
    snaplen != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_on_the_wire_and_loopback_is_read_in_any_order() {
        let ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 53, 0, 8, 0, 0];
        let takes = |text: &str, number, bytes: &[u8], wire_len| {
            FileFilter::new(Some(text.to_owned())).takes(number, bytes, wire_len).unwrap()
        };
        for number in [12, 14, 101, 228] {
            assert!(takes("udp port 53", number, &ip, 28) && !takes("tcp", number, &ip, 28), "{number}");
            assert!(takes("greater 1000 and ip", number, &ip, 1000) && !takes("greater 1000", number, &ip, 999));
            assert!(takes("len <= 28 and less 28", number, &ip, 28) && !takes("less 28", number, &ip, 29));
        }
        for family in [2u32.to_le_bytes(), 2u32.to_be_bytes()] {
            let frame = [&family[..], &ip].concat();
            assert!(takes("ip and udp port 53", 0, &frame, 32) && takes("greater 32", 0, &frame, 32));
        }
        let mut v6 = vec![0, 0, 0, 30, 0x60];
        v6.resize(44, 0);
        assert!(takes("ip6", 0, &v6, 44) && !takes("ip", 0, &v6, 44), "30 is macOS's number for it");
    }

    #[test]
    fn what_does_not_compile_for_a_link_type_is_told() {
        let mut filter = FileFilter::new(Some("ether host 2:0:0:0:0:1".to_owned()));
        assert!(filter.compile(1).is_ok() && filter.compile(101).is_err());
        assert!(FileFilter::new(None).takes(147, b"", 0).unwrap());
    }
}
