//! The server's configuration files.

use super::SUPERUSER;

/// `pg_hba.conf`: the superuser without a password from inside the container, everybody else by password.
pub fn hba() -> String {
    format!(
        "# Written at each start.\n\
         local all {SUPERUSER} trust\n\
         # The databases of the server itself are not the apps'.\n\
         host postgres,template1 {SUPERUSER} all scram-sha-256\n\
         host postgres,template1 all all reject\n\
         host all all 0.0.0.0/0 scram-sha-256\n\
         host all all ::/0 scram-sha-256\n"
    )
}

/// `postgresql.conf`.
pub fn conf(port: u16, socket_dir: &str) -> String {
    let socket_dir = quoted(socket_dir);
    format!(
        "# Written at each start; change a setting with ALTER SYSTEM.\n\
         listen_addresses = '*'\n\
         port = {port}\n\
         unix_socket_directories = {socket_dir}\n\
         max_connections = 300\n\
         # Apps' connections are limited by role; were there ever too many, the system still gets in.\n\
         superuser_reserved_connections = 60\n\
         # No query fills the disk with what it sorts.\n\
         temp_file_limit = 2GB\n\
         shared_buffers = 128MB\n\
         # An acknowledged write survives the loss of power.\n\
         fsync = on\n\
         synchronous_commit = on\n\
         full_page_writes = on\n\
         wal_level = replica\n\
         max_wal_size = 1GB\n\
         password_encryption = scram-sha-256\n\
         # Parallel queries want more shared memory than a container's /dev/shm may have.\n\
         max_parallel_workers_per_gather = 0\n\
         # Clients whose host died are noticed within a minute and a half.\n\
         tcp_keepalives_idle = 30\n\
         tcp_keepalives_interval = 10\n\
         tcp_keepalives_count = 6\n\
         log_destination = 'stderr'\n\
         logging_collector = off\n\
         log_line_prefix = '%m [%p] %u@%d '\n\
         log_timezone = 'UTC'\n\
         timezone = 'UTC'\n"
    )
}

/// A value as the configuration file wants it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_quote_stays_one_value() {
        assert!(conf(5432, "/it's").contains("unix_socket_directories = '/it''s'\n"));
        assert!(hba().contains("local all flynn trust\n"));
        assert!(!hba().contains("host all all 0.0.0.0/0 trust"));
    }
}
