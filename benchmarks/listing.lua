-- ListObjectsV2 for the benchmark origin: answers any prefix, start-after, continuation token,
-- max-keys and delimiter from an index file that is read once per nginx worker.
-- Must not know: anything but the index file named by $bench_index (key TAB size TAB etag, in key order).

local PAGE = 1000
local shelf = package.loaded.bench_listing or {pages = {}}
package.loaded.bench_listing = shelf

local function load_index(path)
    local keys = {}
    for line in io.lines(path) do
        local key, size, etag = line:match("^([^\t]+)\t(%d+)\t(%S+)$")
        keys[#keys + 1] = {key = key, size = size, etag = etag}
    end
    return keys
end

local function starts_with(text, prefix)
    return text:sub(1, #prefix) == prefix
end

local function rolled_up(key, prefix, delimiter)
    if delimiter == "" then return nil end
    local _, stop = key:find(delimiter, #prefix + 1, true)
    return stop and key:sub(1, stop) or nil
end

local function contents(entry)
    return "<Contents><Key>" .. entry.key .. "</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        .. '<ETag>&quot;' .. entry.etag .. '&quot;</ETag><Size>' .. entry.size
        .. "</Size><StorageClass>STANDARD</StorageClass></Contents>"
end

local function gather(args)
    local page = {body = {}, count = 0, last = nil, truncated = false}
    local after, common = args.after, nil
    for _, entry in ipairs(shelf.keys) do
        local group = rolled_up(entry.key, args.prefix, args.delimiter)
        local name = group or entry.key
        if starts_with(entry.key, args.prefix) and name > after and name ~= common then
            if page.count == args.max then page.truncated = true break end
            common = group
            page.body[#page.body + 1] = group
                and ("<CommonPrefixes><Prefix>" .. group .. "</Prefix></CommonPrefixes>") or contents(entry)
            page.count, page.last = page.count + 1, name
        end
    end
    return page
end

local function render(args)
    local page = gather(args)
    local next_token = page.truncated
        and ("<NextContinuationToken>" .. page.last .. "</NextContinuationToken>") or ""
    return '<?xml version="1.0" encoding="UTF-8"?>\n'
        .. '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name>'
        .. "<Prefix>" .. args.prefix .. "</Prefix><KeyCount>" .. page.count .. "</KeyCount>"
        .. "<MaxKeys>" .. args.max .. "</MaxKeys><IsTruncated>" .. tostring(page.truncated)
        .. "</IsTruncated>" .. next_token .. table.concat(page.body) .. "</ListBucketResult>"
end

local function text(value)
    return type(value) == "string" and value or ""
end

shelf.keys = shelf.keys or load_index(ngx.var.bench_index)
local query = ngx.req.get_uri_args()
local token = text(query["continuation-token"])
local args = {
    prefix = text(query.prefix),
    after = token ~= "" and token or text(query["start-after"]),
    delimiter = text(query.delimiter),
    max = math.min(tonumber(text(query["max-keys"])) or PAGE, PAGE),
}
local name = table.concat({args.prefix, args.after, args.delimiter, args.max}, "\n")
-- The same page is asked for every round: render it once, so that the origin stays cheap.
shelf.pages[name] = shelf.pages[name] or render(args)
ngx.header["Content-Type"] = "application/xml"
ngx.header["Content-Length"] = #shelf.pages[name]
ngx.print(shelf.pages[name])
