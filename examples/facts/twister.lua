-- The Mersenne Twister (MT19937, Matsumoto & Nishimura 1998) with the methods of Python's random.Random, draw for draw: the corpus
-- was first written in Python, and comes out the same here, so that each can be checked against the other.
local Twister = {}
Twister.__index = Twister

local MASK = 0xffffffff

local function seeded(s)
  local mt = { [0] = s }
  for i = 1, 623 do mt[i] = (1812433253 * (mt[i - 1] ~ (mt[i - 1] >> 30)) + i) & MASK end
  return mt
end

-- As random.Random(seed) for an integer from 0 to 2^32 - 1.
local function new(seed)
  local mt, i = seeded(19650218), 1
  for _ = 1, 624 do
    mt[i] = ((mt[i] ~ ((mt[i - 1] ~ (mt[i - 1] >> 30)) * 1664525)) + seed) & MASK
    i = i + 1
    if i > 623 then mt[0], i = mt[623], 1 end
  end
  for _ = 1, 623 do
    mt[i] = ((mt[i] ~ ((mt[i - 1] ~ (mt[i - 1] >> 30)) * 1566083941)) - i) & MASK
    i = i + 1
    if i > 623 then mt[0], i = mt[623], 1 end
  end
  mt[0] = 0x80000000
  return setmetatable({ mt = mt, at = 624 }, Twister)
end

-- As torch.Generator().manual_seed(seed).
local function plain(seed) return setmetatable({ mt = seeded(seed), at = 624 }, Twister) end

local function refill(mt)
  for i = 0, 623 do
    local y = (mt[i] & 0x80000000) | (mt[(i + 1) % 624] & 0x7fffffff)
    local value = mt[(i + 397) % 624] ~ (y >> 1)
    mt[i] = y & 1 == 1 and value ~ 0x9908b0df or value
  end
end

function Twister:word()
  local at = self.at
  if at == 624 then
    refill(self.mt)
    at = 0
  end
  local y = self.mt[at]
  self.at = at + 1
  y = y ~ (y >> 11)
  y = y ~ ((y << 7) & 0x9d2c5680)
  y = y ~ ((y << 15) & 0xefc60000)
  return (y ~ (y >> 18)) & MASK
end

-- In [0, 1), 53 bits.
function Twister:random()
  local a, b = self:word() >> 5, self:word() >> 6
  return (a * 67108864.0 + b) * (1.0 / 9007199254740992.0)
end

-- A list of n standard normal numbers as torch.randn makes them on a CPU (n a multiple of 16; its logarithm and sine are rounded otherwise).
function Twister:normal(n)
  local list, u = {}, {}
  for first = 0, n - 16, 16 do
    for j = 0, 15 do u[j] = (self:word() & 0xffffff) * (1.0 / 16777216.0) end
    for j = 0, 7 do
      local radius, angle = math.sqrt(-2 * math.log(1 - u[j])), 2 * math.pi * u[j + 8]
      list[first + j + 1], list[first + j + 9] = radius * math.cos(angle), radius * math.sin(angle)
    end
  end
  return list
end

-- 0 .. n - 1
function Twister:below(n)
  local bits = 0
  while n >> bits > 0 do bits = bits + 1 end
  local value
  repeat value = self:word() >> (32 - bits) until value < n
  return value
end

function Twister:int(low, high) return low + self:below(high - low + 1) end

function Twister:choice(list) return list[self:below(#list) + 1] end

-- Index (from 1) drawn with these cumulative weights.
function Twister:weighted(cumulative)
  local u, i = self:random() * (cumulative[#cumulative] + 0.0), 1
  while i < #cumulative and u >= cumulative[i] do i = i + 1 end
  return i
end

-- k entries of list without repetition. list: a list, or a number n for 0 .. n - 1.
function Twister:sample(list, k)
  local n, result = type(list) == "number" and list or #list, {}
  local function entry(j) return type(list) == "number" and j or list[j + 1] end
  local small = 21
  if k > 5 then small = small + 4 ^ math.ceil(math.log(k * 3) / math.log(4)) end
  if n <= small then
    local pool = {}
    for j = 0, n - 1 do pool[j] = entry(j) end
    for i = 0, k - 1 do
      local j = self:below(n - i)
      result[i + 1], pool[j] = pool[j], pool[n - i - 1]
    end
  else
    local taken = {}
    for i = 1, k do
      local j = self:below(n)
      while taken[j] do j = self:below(n) end
      taken[j] = true
      result[i] = entry(j)
    end
  end
  return result
end

function Twister:shuffle(list)
  for i = #list, 2, -1 do
    local j = self:below(i) + 1
    list[i], list[j] = list[j], list[i]
  end
  return list
end

return { new = new, plain = plain }
