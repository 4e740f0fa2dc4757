-- What the scripts share; this text stands in front of each.
local function last_id(topic)
  if redis.call('EXISTS', topic) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', topic)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

-- The newest entry: {id, {name, value, ...}}, or {'', {}}.
local function newest(topic)
  return redis.call('XREVRANGE', topic, '+', '-', 'COUNT', 1)[1] or {'', {}}
end

