//! The binary `mirror`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror_user::cli::main()
}
