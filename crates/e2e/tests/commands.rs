//! The lines of `docs/commands.md`, as they stand there.

use std::path::Path;

use e2e::{
    cluster,
    document::play,
    shell::{run, sh},
};

#[test]
fn every_command_works_as_the_documentation_types_it() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let examples = format!("{}/examples/.", top.display());
    run(folder.path(), &["cp", "-r", &examples, "."]).ok();
    // What a run before this one left.
    sh("flynn -a shop delete -y; flynn server-remove second");
    let (port, domain) = (cluster::http_port().to_string(), format!(".{}", cluster::domain()));
    let names = [("$HTTP_PORT", port.as_str()), (".localhost", domain.as_str())];
    play(folder.path(), &top.join("docs/commands.md"), &names);
}
