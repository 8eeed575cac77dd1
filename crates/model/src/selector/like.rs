//! The patterns of LIKE: `%` is any number of characters, `_` is one, and either is itself after the escape character.

use super::Steps;

/// A pattern that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    Any,
    One,
    Byte(u8),
}

impl Pattern {
    /// Reads a pattern; an escape character at its end, or before another one than `%`, `_` and itself, is an error.
    pub(super) fn new(pattern: &str, escape: Option<char>) -> Result<Self, &'static str> {
        let (mut pieces, mut bytes) = (Vec::new(), [0; 4]);
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            let literal = match character {
                it if Some(it) == escape => {
                    let after = characters
                        .next()
                        .filter(|&after| matches!(after, '%' | '_') || Some(after) == escape);
                    after.ok_or("%, _ or the escape character itself after an escape character")?
                }
                '%' => {
                    if pieces.last() != Some(&Piece::Any) {
                        pieces.push(Piece::Any);
                    }
                    continue;
                }
                '_' => {
                    pieces.push(Piece::One);
                    continue;
                }
                it => it,
            };
            pieces.extend(literal.encode_utf8(&mut bytes).bytes().map(Piece::Byte));
        }
        Ok(Self(pieces))
    }

    /// Whether it is a whole text's; none when finding out takes more steps than there are: a pattern with several `%` may
    /// have to try again and again.
    pub(super) fn matches(&self, text: &[u8], steps: &Steps) -> Option<bool> {
        let (mut at, mut piece) = (0, 0);
        // Where the last `%` was, and where in the text what is after it was tried last.
        let mut again: Option<(usize, usize)> = None;
        while steps.take(1) {
            match self.0.get(piece) {
                Some(Piece::Any) => {
                    again = Some((piece + 1, at));
                    piece += 1;
                    continue;
                }
                Some(Piece::One) if at < text.len() => {
                    at += character_len(&text[at..]);
                    piece += 1;
                    continue;
                }
                Some(Piece::Byte(byte)) if text.get(at) == Some(byte) => {
                    at += 1;
                    piece += 1;
                    continue;
                }
                None if at == text.len() => return Some(true),
                _ => {}
            }
            let Some((after, tried)) = again.filter(|&(_, tried)| tried < text.len()) else {
                return Some(false);
            };
            let tried = tried + character_len(&text[tried..]);
            again = Some((after, tried));
            (at, piece) = (tried, after);
        }
        None
    }
}

/// Bytes of the first character; one where it is none of UTF-8.
fn character_len(text: &[u8]) -> usize {
    let continued = text[1..].iter().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
    let announced = text[0].leading_ones() as usize;
    if announced == continued + 1 || (announced > 1 && announced <= continued) { announced } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, escape: Option<char>, text: &str) -> bool {
        Pattern::new(pattern, escape).unwrap().matches(text.as_bytes(), &Steps::default()).unwrap()
    }

    #[test]
    fn wildcards() {
        for (pattern, yes, no) in [
            ("12%3", ["123", "12993"], ["1234", "12"]),
            ("l_se", ["lose", "l\u{e4}se"], ["loose", "lse"]),
            ("%", ["", "a\nb"], ["", ""]),
            ("a%b%c", ["abc", "axbxbxc"], ["ab", "acb"]),
            ("%ab", ["ab", "aab"], ["aba", "b"]),
            ("_", ["x", "\u{1F600}"], ["", "xy"]),
            ("", ["", ""], ["x", " "]),
            ("a.*", ["a.*", "a.*"], ["abc", "a"]),
        ] {
            yes.iter().for_each(|text| assert!(matches(pattern, None, text), "{pattern} {text:?}"));
            if pattern != "%" {
                no.iter().for_each(|text| assert!(!matches(pattern, None, text), "{pattern} {text:?}"));
            }
        }
    }

    #[test]
    fn escapes() {
        assert!(matches("!_%", Some('!'), "_foo") && !matches("!_%", Some('!'), "bar"));
        assert!(matches("50!%!!", Some('!'), "50%!"));
        for bad in ["a!", "!a"] {
            assert!(Pattern::new(bad, Some('!')).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_gives_up() {
        let pattern = Pattern::new(&format!("%{}b", "a".repeat(1_000)), None).unwrap();
        let steps = Steps::new(200_000);
        assert_eq!(pattern.matches("a".repeat(100_000).as_bytes(), &steps), None);
        assert!(steps.are_used_up());
        // What is no UTF-8 is compared by bytes.
        assert_eq!(Pattern::new("__", None).unwrap().matches(b"\xff\x80", &Steps::new(3)), Some(true));
    }
}
