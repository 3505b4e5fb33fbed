-- Why a job ended (`api::host::EndReason`), for deployments and people.
ALTER TABLE jobs ADD COLUMN end_reason text;
