//! Rule files: parse, resolve, compile, explain.
