//! What a server's own command line says.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

/// Values of `--option VALUE` and `--option=VALUE`.
pub fn option_values<'a>(arguments: &'a [OsString], option: &str) -> Vec<&'a OsStr> {
    let mut values = Vec::new();
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        let after = argument.as_bytes().strip_prefix(option.as_bytes());
        match after {
            Some([]) => values.extend(left.next().map(OsString::as_os_str)),
            Some([b'=', value @ ..]) => values.push(OsStr::from_bytes(value)),
            _ => {}
        }
    }
    values
}

/// The arguments behind the server itself, which in `npx -y PACKAGE DIR` is the package and in
/// `python3 -m MODULE DIR` the module.
pub fn own_arguments(arguments: &[OsString]) -> &[OsString] {
    const RUNNERS: [&str; 12] = [
        "npx", "bunx", "pnpx", "node", "nodejs", "bun", "deno", "uvx", "uv", "pipx", "npm", "pnpm",
    ];
    const WITH_VALUE: [&str; 9] = [
        "-p",
        "--package",
        "--from",
        "--with",
        "--python",
        "-r",
        "--require",
        "--import",
        "--directory",
    ];
    let Some((command, mut rest)) = arguments.split_first() else { return &[] };
    let command = command.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let command = String::from_utf8_lossy(command);
    if !RUNNERS.contains(&command.as_ref()) && !command.starts_with("python") {
        return rest;
    }
    while let Some((argument, after)) = rest.split_first() {
        let argument = argument.to_string_lossy();
        rest = after;
        if WITH_VALUE.contains(&argument.as_ref()) {
            rest = after.get(1..).unwrap_or_default();
        } else if argument == "-m" {
            return after.get(1..).unwrap_or_default();
        } else if !argument.starts_with('-')
            && !["run", "exec", "dlx", "x", "tool"].contains(&argument.as_ref())
        {
            return after;
        }
    }
    rest
}
