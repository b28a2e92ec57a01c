"""What happens to a lease in Redis: each change one script, on the server's own clock.

A fence is never smaller than that clock, so that it grows even over a loss of memory. A claim is
worth "fence:owner", or "done".
"""

from app.core.redis import SERVER

DONE = "done"
# A server that has no room left, or only reads, answers all but this.
CHECK = "return redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])"
GRANT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function grant(key)
  local last = tonumber(redis.call('GET', key) or '0')
  local fence = string.format('%.0f', math.max(last + 1, now))
  redis.call('SET', key, fence)
  return fence
end
"""
ELECT = (
    SERVER
    + GRANT
    + """
local owner, lease, early = ARGV[1], ARGV[2], tonumber(ARGV[3])
local answers = {string.format('%.0f', now)}
if redis.call('SET', KEYS[2], answers[1], 'NX') then
  redis.call('SET', KEYS[3], server())
end
for i = 4, #KEYS do
  local held = redis.call('GET', KEYS[i])
  if not held and tonumber(ARGV[i]) <= now + early then
    held = grant(KEYS[1]) .. ':' .. owner
    redis.call('SET', KEYS[i], held, 'PX', lease)
  end
  answers[i - 2] = held
end
return answers
"""
)
SEIZE = (
    GRANT
    + """
local held = redis.call('GET', KEYS[2])
if held then
  local fence, owner = string.match(held, '^(%d+):(.*)$')
  if fence ~= ARGV[3] or ARGV[4] == '0' then
    -- Ours already, if this call is sent twice since its first answer did not arrive.
    return owner == ARGV[1] and tonumber(fence) > tonumber(ARGV[3]) and fence
  end
end
local fence = grant(KEYS[1])
redis.call('SET', KEYS[2], fence .. ':' .. ARGV[1], 'PX', ARGV[2])
return fence
"""
)
SPARE = GRANT + "return grant(KEYS[1])"
BEAT = """
local answers = {}
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  if held == ARGV[i + 1] then
    redis.call('PEXPIRE', key, ARGV[1])
  end
  answers[i] = not held and 'gone' or held == ARGV[i + 1] and 'kept' or 'taken'
end
return answers
"""
# A lease that has ended, but that nobody else has; asked once the ledger has said so, too.
REVIVE = """
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1], 'NX') and 'kept' or 'taken'
end
return answers
"""
RELEASE = """
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[2 * i] then
    if ARGV[2 * i + 1] == '' then
      redis.call('DEL', key)
    else
      redis.call('SET', key, ARGV[2 * i + 1], 'PX', ARGV[1])
    end
  end
end
"""
# After a loss of memory every lease seems to have ended: for one lease nobody is taken for dead.
# Elections count from the loss, too: counted from the first death, that was found a lease late.
# A server that came back with an older state, or that took another one's place, has lost leases.
HOLDERS = (
    SERVER
    + GRANT
    + """
local since, of = tonumber(redis.call('GET', KEYS[1])), server()
if not since or since > now or redis.call('GET', KEYS[2]) ~= of then
  since = now
  redis.call('SET', KEYS[1], string.format('%.0f', now))
  redis.call('SET', KEYS[2], of)
end
if now - since < tonumber(ARGV[1]) then
  return false
end
local held = {}
for i = 3, #KEYS do
  held[i - 2] = redis.call('GET', KEYS[i]) or ''
end
return held
"""
)
ACQUIRE = (
    GRANT
    + """
local held = redis.call('GET', KEYS[2])
if held then
  local fence, owner = string.match(held, '^(%d+):(.*)$')
  return owner == ARGV[1] and fence
end
local fence = grant(KEYS[1])
redis.call('SET', KEYS[2], fence .. ':' .. ARGV[1], 'PX', ARGV[2])
return fence
"""
)
IF_MINE = """
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, '^%d+') ~= ARGV[1] then
  return 0
end
"""
RENEW = IF_MINE + "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
FREE = IF_MINE + "return redis.call('DEL', KEYS[1])"
