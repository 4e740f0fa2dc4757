-- The one Redis call of an exchange: takes the Gateway's nonce, counts the rates, and adds the
-- audit entries, which are those of a new nonce and of rates within their limits. When it turns
-- out otherwise it adds none, and the entries that apply then come in a call of their own.
--
-- KEYS: audit topic, nonce, then a rate counter for each step; the topic again means none.
-- ARGV: life of a nonce (s); number of steps; for each step: limit, window (s), ends the request
--       (1); then the entries, each its number of strings, then name, value, name, value ...
-- Returns: 'ok' or 'replayed'; one character a step, 1 = limited; ids of the added entries.
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end

local nonce_life = take()
if KEYS[2] ~= KEYS[1] and not redis.call('SET', KEYS[2], '1', 'NX', 'EX', nonce_life) then
  return {'replayed', '', {}}
end

local function over(key, limit, window)
  if key == KEYS[1] then return false end
  local count = redis.call('INCR', key)
  if count == 1 then redis.call('EXPIRE', key, window) end
  return count > limit
end

local limited, within, ended = {}, true, false
for step = 1, tonumber(take()) do
  local limit, window, ends = tonumber(take()), take(), take() == '1'
  local refused = not ended and over(KEYS[2 + step], limit, window)
  limited[step] = refused and '1' or '0'
  within = within and not refused
  ended = ended or (ends and not refused)
end

local added = {}
while within and at < #ARGV do
  local size = tonumber(take())
  added[#added + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + size))
  at = at + size
end
return {'ok', table.concat(limited), added}
