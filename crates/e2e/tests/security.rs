//! Keys, capabilities, and what an app can reach.

use e2e::{app::App, cluster, shell::sh};

/// Calls that must not work without a key: method, address from the host, address from a job.
const CLOSED: [(&str, &str, &str); 6] = [
    ("GET", "http://127.0.0.1:1113/host/jobs", "http://$GW:1113/host/jobs"),
    ("POST", "http://127.0.0.1:1113/cluster/commit", "http://$GW:1113/cluster/commit"),
    (
        "PUT",
        "http://127.0.0.1:1111/services/x/instances/6d0c0d2a5d4a1e0f0b7ac4d1ae2a9f3e",
        "http://$GW:1111/services/x/instances/6d0c0d2a5d4a1e0f0b7ac4d1ae2a9f3e",
    ),
    ("GET", "http://127.0.0.1:5000/routes", "http://$GW:5000/routes"),
    ("PUT", "http://$SHELF/slugs/x", "http://$SHELF/slugs/x"),
    ("POST", "http://$PGAPI/databases", "http://$PGAPI/databases"),
];

fn address_of(service: &str) -> String {
    let line =
        format!("curl -fs http://127.0.0.1:1111/services/{service}/instances | jq -r '.[0].addr'");
    sh(&line).ok().trim().to_owned()
}

fn gateway() -> String {
    let line = "docker network inspect flynn -f '{{(index .IPAM.Config 0).Gateway}}'";
    sh(line).ok().trim().to_owned()
}

#[tokio::test]
async fn nothing_that_changes_or_reveals_answers_without_its_key() {
    let app = App::node("keys");
    app.push().ok();
    let (shelf, pg_api, gw) = (address_of("shelf"), address_of("postgres-api"), gateway());
    let fill =
        |url: &str| url.replace("$GW", &gw).replace("$SHELF", &shelf).replace("$PGAPI", &pg_api);
    for (method, host, job) in CLOSED {
        let curl = format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' -X {method} -d '{{}}' ");
        assert_eq!(
            sh(&format!("{curl} {}", fill(host))).out,
            "401",
            "{method} {host} from the host"
        );
        let line = format!("{curl} {}", fill(job));
        let inside = app.flynn(&["run", "--", "bash", "-c", &line]);
        assert_eq!(inside.out, "401", "{method} {job} from inside an app: {inside:?}");
    }
}

#[tokio::test]
async fn an_app_runs_without_rights_and_without_keys_of_ours() {
    let app = App::node("rights");
    app.push().ok();
    app.serves().await;
    let seen = app
        .flynn(&[
            "run",
            "--",
            "bash",
            "-c",
            "id -u; grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status",
        ])
        .ok();
    assert!(!seen.starts_with("0\n"), "{seen}");
    assert!(seen.contains("CapEff:\t0000000000000000"), "{seen}");
    assert!(seen.contains("NoNewPrivs:\t1"), "{seen}");

    let state =
        std::fs::read_to_string(format!("{}/bootstrap/state.json", cluster::data_dir())).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let mut secrets: Vec<String> = ["discoverd", "flynn-host", "shelf", "strowger", "postgres-api"]
        .map(cluster::service_key)
        .into();
    secrets.push(state["controller-key"]["result"]["data"].as_str().unwrap().into());
    secrets.push(state["postgres-password"]["result"]["data"].as_str().unwrap().into());
    let environment = app.flynn(&["run", "env"]).ok();
    let web = cluster::containers_of(&app.name).await;
    let inspected = sh(&format!("docker inspect {}", web.join(" "))).ok();
    for secret in secrets {
        assert!(
            !environment.contains(&secret) && !inspected.contains(&secret),
            "an app holds a key of ours"
        );
    }

    let reach = "for a in 127.0.0.1:2379 $GW:2379 $GW:22; do timeout 3 bash -c \"</dev/tcp/${a/:/\\/}\" && echo reached $a; done; ls /var/run/docker.sock; true";
    let reached = app.flynn(&["run", "--", "bash", "-c", &reach.replace("$GW", &gateway())]);
    assert!(
        !reached.out.contains("reached") && !reached.out.contains("docker.sock"),
        "{reached:?}"
    );
}

#[tokio::test]
async fn nothing_of_an_app_listens_on_the_machine_itself() {
    let listening = sh("ss -Hltn | awk '{print $4}'").ok();
    for line in listening.lines() {
        let port = line.rsplit(':').next().unwrap_or_default();
        let ours = ["1111", "1113", "2379", "2380", "5000"].contains(&port);
        let local =
            line.starts_with("127.") || line.starts_with("[::1]") || line.starts_with(&gateway());
        assert!(!ours || local, "{line} is open to everybody");
        assert_ne!(port, "8080", "an app's port is open on the machine");
    }
}
