//! Where the fields of a row begin: the separator, found from the lines themselves.

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
