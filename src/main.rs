//! The `dlc` program: calls [`dlc::cli`].

fn main() -> std::process::ExitCode {
    dlc::cli::main(std::env::args_os())
}
