-- The URLs of old providers hold users and passwords, and so do the events that tell of them: without these they lead to the
-- same place. What has no scheme is no URL; of that all before the last @ goes.
UPDATE events
SET data = jsonb_set(data, '{url}', to_jsonb(
    CASE WHEN data->>'url' ~ '^\s*[A-Za-z][A-Za-z0-9+.-]*:'
        THEN regexp_replace(data->>'url', '^(\s*[A-Za-z][A-Za-z0-9+.-]*:[/\\]*)[^/\\?#]*@', '\1')
        ELSE regexp_replace(data->>'url', '^.*@', '')
    END))
WHERE object_type IN ('provider', 'provider_deletion')
  AND jsonb_typeof(data->'url') = 'string' AND strpos(data->>'url', '@') > 0;
