//! flynn-key-check as it is run for strangers.

use std::process::Command;

#[test]
fn no_ssh_user_makes_the_key_check_end_well() {
    for user in ["--help", "-h", "-V", "--version", "--", "help", ""] {
        let mut check = Command::new(env!("CARGO_BIN_EXE_flynn-key-check"));
        check.args([user, "ssh-ed25519 AAAA"]).env_clear();
        check.env("CONTROLLER_KEY", "key").env("CONTROLLER_URL", "http://127.0.0.1:9");
        assert!(!check.output().unwrap().status.success(), "{user:?}");
    }
}
