//! Names of files as patterns: what a program makes up anew at each start (numbers, hashes,
//! versions, random endings) becomes a wildcard, everything else stays.

/// Characters that mean something in patterns.
const SPECIAL: &[u8] = br"\*?[]{}$,";

/// One component of a path as a pattern. `temporary`: it stands directly in a directory for
/// temporary files, where random endings are the rule.
pub fn component(name: &[u8], temporary: bool) -> String {
    let mut text = String::new();
    let mut left = name;
    while !left.is_empty() {
        if let Some(length) = uuid(left).or_else(|| date(left)).or_else(|| version(left)) {
            push_star(&mut text);
            left = &left[length..];
            continue;
        }
        let word = word(left);
        if word == 0 {
            push_byte(&mut text, left[0]);
            left = &left[1..];
            continue;
        }
        let (run, rest) = left.split_at(word);
        let is_all = run.len() == name.len();
        match made_up(run, temporary) {
            None => run.iter().for_each(|byte| push_byte(&mut text, *byte)),
            // Never all names of a directory at once.
            Some(0) if is_all && temporary => text.extend(run.iter().map(|_| '?')),
            Some(kept) => {
                run[..kept].iter().for_each(|byte| push_byte(&mut text, *byte));
                push_star(&mut text);
            }
        }
        left = rest;
    }
    text
}

/// Length of the letters and digits at the start of a text, up to a version: `v` of `v1.2.3`.
fn word(text: &[u8]) -> usize {
    let all = text.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let begins_version = |at: &usize| {
        text[*at].is_ascii_digit()
            && !text[at - 1].is_ascii_digit()
            && version(&text[*at..]).is_some()
    };
    (1..all).find(begins_version).unwrap_or(all)
}

fn push_star(text: &mut String) {
    // `*-*-*` of a UUID is one wildcard.
    let end = text.trim_end_matches(['-', '_', '.']);
    if end.ends_with('*') && !end.ends_with("\\*") {
        text.truncate(end.len());
    } else {
        text.push('*');
    }
}

fn push_byte(text: &mut String, byte: u8) {
    match byte {
        _ if SPECIAL.contains(&byte) => text.extend(['\\', char::from(byte)]),
        0x20..=0x7e => text.push(char::from(byte)),
        // One byte of whatever it is.
        _ => text.push('?'),
    }
}

/// Length of a UUID at the start of a text.
fn uuid(text: &[u8]) -> Option<usize> {
    const LENGTH: usize = 36;
    let fits = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.get(..LENGTH)?.iter().enumerate().all(fits).then_some(LENGTH)
}

/// Length of a date such as `2026-01-31`, with its time, at the start of a text.
fn date(text: &[u8]) -> Option<usize> {
    let fits = |(at, byte): (usize, &u8)| match at {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.get(..10)?.iter().enumerate().all(fits).then_some(())?;
    let time = text[10..].iter().take_while(|b| b.is_ascii_digit() || b"TZ:_-".contains(b)).count();
    let end = text[..10 + time].iter().rposition(|byte| byte.is_ascii_alphanumeric())?;
    Some(end + 1)
}

/// Length of a version such as `1.2.3` at the start of a text.
fn version(text: &[u8]) -> Option<usize> {
    let mut length = 0;
    let mut numbers = 0;
    loop {
        let digits = text[length..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            break;
        }
        numbers += 1;
        length += digits;
        let next_is_digit = text.get(length + 1).is_some_and(u8::is_ascii_digit);
        if text.get(length) != Some(&b'.') || !next_is_digit {
            break;
        }
        length += 1;
    }
    (numbers >= 3).then_some(length)
}

/// How many characters of a word stay, when the rest of it is made up.
fn made_up(run: &[u8], temporary: bool) -> Option<usize> {
    let digits = run.iter().filter(|byte| byte.is_ascii_digit()).count();
    if digits == run.len() {
        return (run.len() >= 4).then_some(0);
    }
    let hex = run.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
    if hex && (run.len() >= 16 || (run.len() >= 8 && digits > 0)) {
        return Some(0);
    }
    let is_digit = |pair: &&[u8]| pair[0].is_ascii_digit() != pair[1].is_ascii_digit();
    let changes = run.windows(2).filter(is_digit).count();
    let upper = |byte: &u8| byte.is_ascii_uppercase();
    let turns =
        run.windows(2).filter(|pair| pair[0].is_ascii_lowercase() && upper(&pair[1])).count();
    let random = match temporary {
        true => run.len() >= 6 && (digits > 0 || turns > 0),
        false => run.len() >= 8 && (changes >= 3 || (changes >= 2 && turns >= 1)),
    };
    if !random {
        return None;
    }
    // Endings of eight characters behind a word, as mkstemp of Python makes them.
    let word = run.len().saturating_sub(8);
    let kept = temporary && word >= 3 && run[..word].iter().all(u8::is_ascii_alphabetic);
    Some(if kept { word } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::component;

    #[test]
    fn what_is_made_up_becomes_a_wildcard() {
        let cases = [
            ("12345", "*"),
            ("f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "*"),
            ("memory.jsonl.02e670a1601dfcb13f7bada17f2750d0.tmp", "memory.jsonl.*.tmp"),
            ("node-v20.11.1-linux-x64", "node-v*-linux-x64"),
            ("2026-11-20T14_20_58_794Z-debug-0.log", "*-debug-0.log"),
            ("page-1763648397.png", "page-*.png"),
        ];
        for (name, wanted) in cases {
            assert_eq!(component(name.as_bytes(), false), wanted, "{name}");
        }
    }

    #[test]
    fn what_people_name_stays() {
        for name in ["README.md", "app.js", "python3.11", "f12.txt", "x86_64", ".git", "doc2.pdf"] {
            assert_eq!(component(name.as_bytes(), false), name);
        }
        assert_eq!(component(b"a*{b}", false), "a\\*\\{b\\}");
        assert_eq!(component(b"a\xff\n", false), "a??");
    }

    #[test]
    fn endings_of_temporary_names_are_random() {
        let cases = [
            ("tmpab12cd34", "tmp*"),
            ("readabilipy97v0artf.json", "readabilipy*.json"),
            ("playwright-artifacts-B32eGH", "playwright-artifacts-*"),
            (".org.chromium.Chromium.UPqKcg", ".org.chromium.Chromium.*"),
            ("0e1z29d7", "????????"),
            ("code_indexer", "code_indexer"),
        ];
        for (name, wanted) in cases {
            assert_eq!(component(name.as_bytes(), true), wanted, "{name}");
        }
    }
}
