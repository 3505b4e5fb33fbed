//! Who may depend on whom. An edge that is not here is a decision: add it and say why in the commit.

/// (crate, crates of ours it may link).
pub(super) const LAYERS: &[(&str, &[&str])] = &[
    // Vocabulary.
    ("api", &[]),
    // Mechanics: know `api`, not each other.
    ("attach", &["api"]),
    ("api-client", &["api"]),
    ("daemon", &["api"]),
    ("pg", &["api"]),
    ("keyspace", &["api"]),
    ("sampi", &["api"]),
    ("tunnel", &[]),
    // Clients.
    ("discoverd-client", &["api", "api-client"]),
    ("host-client", &["api", "api-client", "attach"]),
    ("controller-client", &["api", "api-client", "attach"]),
    ("strowger-client", &["api", "api-client", "discoverd-client"]),
    ("shelf-client", &["api", "api-client"]),
    // Daemons.
    ("discoverd", &["api", "api-client", "daemon", "keyspace"]),
    (
        "flynn-host",
        &[
            "api",
            "api-client",
            "attach",
            "daemon",
            "discoverd-client",
            "host-client",
            "keyspace",
            "sampi",
            "shelf-client",
            "strowger-client",
            "tunnel",
        ],
    ),
    (
        "controller",
        &[
            "api",
            "api-client",
            "attach",
            "daemon",
            "discoverd-client",
            "host-client",
            "pg",
            "shelf-client",
            "strowger-client",
        ],
    ),
    (
        "scheduler",
        &[
            "api",
            "api-client",
            "controller-client",
            "daemon",
            "discoverd-client",
            "host-client",
            "sampi",
            "strowger-client",
        ],
    ),
    ("strowger", &["api", "daemon", "discoverd-client", "keyspace"]),
    ("shelf", &["api", "daemon", "discoverd-client", "pg"]),
    (
        "gitreceived",
        &["api", "api-client", "controller-client", "daemon", "discoverd-client", "shelf-client"],
    ),
    ("flynn-postgres", &["api", "daemon", "discoverd-client", "pg"]),
    // Tools.
    ("cli", &["api", "api-client", "attach", "controller-client"]),
    (
        "receiver",
        &[
            "api",
            "api-client",
            "attach",
            "controller-client",
            "discoverd-client",
            "host-client",
            "shelf-client",
        ],
    ),
    ("sdutil", &["api", "discoverd-client"]),
    ("taffy", &["api"]),
    (
        "bootstrap",
        &[
            "api",
            "api-client",
            "controller-client",
            "discoverd-client",
            "host-client",
            "shelf-client",
            "strowger-client",
        ],
    ),
    ("slugbuilder", &["api", "shelf-client"]),
    ("slugrunner", &["api"]),
    // Proof.
    ("testkit", &["api"]),
    ("e2e", &["api", "controller-client", "discoverd-client", "host-client", "testkit"]),
    // Plays the pure decisions of several daemons against each other.
    ("simulator", &["api", "discoverd", "sampi", "scheduler"]),
    // Runs production code and daemons against rivals.
    (
        "bench",
        &[
            "api",
            "api-client",
            "controller-client",
            // Serves what stands for a host.
            "daemon",
            "discoverd-client",
            "host-client",
            "sampi",
            "scheduler",
            "strowger-client",
            "testkit",
        ],
    ),
    ("xtask", &[]),
];
