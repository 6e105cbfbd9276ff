//! What a header line says: the separator, how many columns, which of them hold packets, bytes and times.
//!
//! A line is a header when it has at least two fields, every field is a name (`[A-Za-z_][A-Za-z0-9_]*`), one separator
//! stands between all of them, and at least one name is a column that nfacctd can print. So a data row is never taken
//! for one: an address or a number is not a name. Nothing here looks at rows.

use std::sync::Arc;

pub mod ddl;

/// Columns of nfacctd's CSV output (pmacct 1.7.9, in its master order): the word in `aggregate`, the name in a header. A
/// line with one of these names is a header.
const KNOWN: &[(&str, &str)] = &[
    ("tag", "TAG"),
    ("tag2", "TAG2"),
    ("label", "LABEL"),
    ("class", "CLASS"),
    ("src_mac", "SRC_MAC"),
    ("dst_mac", "DST_MAC"),
    ("vlan", "VLAN"),
    ("out_vlan", "OUT_VLAN"),
    ("cos", "COS"),
    ("etype", "ETYPE"),
    ("src_as", "SRC_AS"),
    ("dst_as", "DST_AS"),
    ("std_comm", "COMMS"),
    ("as_path", "AS_PATH"),
    ("peer_src_as", "PEER_SRC_AS"),
    ("peer_dst_as", "PEER_DST_AS"),
    ("peer_src_ip", "PEER_SRC_IP"),
    ("peer_dst_ip", "PEER_DST_IP"),
    ("in_iface", "IN_IFACE"),
    ("out_iface", "OUT_IFACE"),
    ("src_host", "SRC_IP"),
    ("src_net", "SRC_NET"),
    ("dst_host", "DST_IP"),
    ("dst_net", "DST_NET"),
    ("src_mask", "SRC_MASK"),
    ("dst_mask", "DST_MASK"),
    ("src_port", "SRC_PORT"),
    ("dst_port", "DST_PORT"),
    ("tcpflags", "TCP_FLAGS"),
    ("proto", "PROTOCOL"),
    ("tos", "TOS"),
    ("sampling_rate", "SAMPLING_RATE"),
    ("timestamp_start", "TIMESTAMP_START"),
    ("timestamp_end", "TIMESTAMP_END"),
    ("timestamp_arrival", "TIMESTAMP_ARRIVAL"),
    ("timestamp_export", "TIMESTAMP_EXPORT"),
    ("timestamp_min", "TIMESTAMP_MIN"),
    ("timestamp_max", "TIMESTAMP_MAX"),
    ("packets", "PACKETS"),
    ("flows", "FLOWS"),
    ("bytes", "BYTES"),
];

/// A longer line is never a header. nfacctd's longest, with every primitive, is about 1,200 bytes.
const LONGEST: usize = 8192;

/// A header line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    text: Box<[u8]>,
    ends_in_crlf: bool,
    separator: u8,
    columns: usize,
    packets: Option<usize>,
    octets: Option<usize>,
    times: Vec<usize>,
}

impl Schema {
    /// Reads a line, with or without its line end; `None` when it is not a header.
    pub fn from_line(line: &[u8]) -> Option<Arc<Self>> {
        let text = trim_line_end(line);
        if text.len() > LONGEST || !text.first().copied().is_some_and(starts_name) {
            return None;
        }
        let separator = *text.iter().find(|b| !in_name(**b))?;
        if !is_separator(separator) {
            return None;
        }
        let names: Vec<&[u8]> = text.split(|b| *b == separator).collect();
        let named = |name: &&[u8]| name.first().copied().is_some_and(starts_name) && name.iter().all(|b| in_name(*b));
        if !names.iter().all(named) || !names.iter().any(|name| is_known(name)) {
            return None;
        }
        let position = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted.as_bytes()));
        let is_time = |name: &&[u8]| name.to_ascii_uppercase().starts_with(b"TIMESTAMP_");
        Some(Arc::new(Self {
            separator,
            columns: names.len(),
            packets: position("PACKETS"),
            octets: position("BYTES"),
            times: (0..names.len()).filter(|i| is_time(&names[*i])).collect(),
            ends_in_crlf: line.ends_with(b"\r\n"),
            text: text.into(),
        }))
    }

    /// The header without its line end.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The header as a line of its own, ended as it was when it came.
    pub fn line(&self) -> Vec<u8> {
        [self.text(), if self.ends_in_crlf { b"\r\n" } else { b"\n" }].concat()
    }

    /// The byte between two fields.
    pub fn separator(&self) -> u8 {
        self.separator
    }

    /// How many fields a row has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Index of the PACKETS column.
    pub fn packets(&self) -> Option<usize> {
        self.packets
    }

    /// Index of the BYTES column.
    pub fn octets(&self) -> Option<usize> {
        self.octets
    }

    /// Indexes of the TIMESTAMP_ columns, ascending.
    pub fn times(&self) -> &[usize] {
        &self.times
    }

    /// True when `line`, with or without its line end, repeats this header.
    pub fn is_repeated_by(&self, line: &[u8]) -> bool {
        *trim_line_end(line) == *self.text
    }
}

/// `line` without its `\n` or `\r\n`.
pub fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_known(name: &[u8]) -> bool {
    KNOWN.iter().any(|(_, known)| known.as_bytes().eq_ignore_ascii_case(name))
}

fn starts_name(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_'
}

fn in_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// What print_output_separator can sensibly be: a tab, a space or a mark that numbers, addresses and names do not hold.
fn is_separator(b: u8) -> bool {
    b == b'\t' || b == b' ' || (b.is_ascii_punctuation() && !b"\"'_.:-+\\".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &[u8] =
        b"SRC_IP,DST_IP,SRC_PORT,DST_PORT,TCP_FLAGS,PROTOCOL,TOS,TIMESTAMP_MIN,TIMESTAMP_MAX,PACKETS,BYTES\n";

    #[test]
    fn every_primitive_of_the_capture_is_a_known_column_in_the_same_order() {
        let known: Vec<_> = KNOWN.iter().collect();
        let mut rest = known.as_slice();
        for (primitive, word, column) in crate::flow::aggregate::Primitive::ALL {
            let at = rest.iter().position(|known| **known == (word, column));
            let at = at.unwrap_or_else(|| panic!("{primitive:?} is not here, or stands in another place"));
            rest = &rest[at + 1..];
        }
    }

    #[test]
    fn the_reference_header() {
        let schema = Schema::from_line(REFERENCE).unwrap();
        assert_eq!((schema.separator(), schema.columns()), (b',', 11));
        assert_eq!((schema.packets(), schema.octets(), schema.times()), (Some(9), Some(10), &[7, 8][..]));
        assert!(schema.is_repeated_by(REFERENCE));
        assert_eq!(schema.line(), REFERENCE);
        assert_eq!(Schema::from_line(b"SRC_IP,BYTES\r\n").unwrap().line(), b"SRC_IP,BYTES\r\n");
        assert!(!schema.is_repeated_by(b"SRC_IP,DST_IP\n"));
    }

    #[test]
    fn separators_are_learnt() {
        for separator in [",", ";", "\t", "|", " ", "~"] {
            let line = ["src_ip", "My_Column2", "packets"].join(separator) + "\r\n";
            let schema = Schema::from_line(line.as_bytes()).unwrap_or_else(|| panic!("{separator:?}"));
            assert_eq!((schema.separator(), schema.columns()), (separator.as_bytes()[0], 3));
        }
    }

    #[test]
    fn rows_are_never_headers() {
        for row in [
            "10.1.2.3,10.4.5.6,51234,443,27,6,0,2025-11-27 10:20:30.123456,2025-11-27 10:20:31.0,12,3456",
            "fe80::1,fe80::2,0,34304,0,58,0,1700000000.123000,1700000000.123000,1,72",
            "aa:bb:cc:dd:ee:ff,0,1",
            "unknown,tcp,2",
            "tcp,udp",
            "PACKETS",
            "PACKETS,,BYTES",
            "PACKETS,BYTES;FLOWS",
            "--START (1234)--",
            "",
            "\n",
        ] {
            assert_eq!(Schema::from_line(row.as_bytes()), None, "{row}");
        }
    }
}
