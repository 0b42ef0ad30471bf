import { renderToStaticMarkup } from "react-dom/server"
import { expect, test } from "vitest"
import { Markdown, StaffChat } from "../src/index.ts"
import { MarkdownReader, toPlainText } from "../src/markdown.ts"

const render = (text: string, isGrowing = false) =>
  renderToStaticMarkup(<Markdown text={text} isGrowing={isGrowing} />)

test("paragraphs, lists, code, tables and links become their elements", () => {
  const text = [
    "# Title\n",
    "Some *stress*, **more**, `code` and [a link](https://example.org/a?b=1&c).\nNext line\n",
    "3. three\n4. four\n",
    "```ts\nconst a = 1 < 2\n```\n",
    "| a | b |\n|:-:|--:|\n| 1 | 2 |\n",
    "> quoted",
  ].join("\n")
  const html = render(text)
  expect(html).toContain('<h3 dir="auto">Title</h3>')
  expect(html).toContain("<em>stress</em>, <strong>more</strong>, <code>code</code>")
  expect(html).toContain('href="https://example.org/a?b=1&amp;c"')
  expect(html).toContain('target="_blank" rel="noopener noreferrer nofollow"')
  expect(html).toContain("<br/>Next line")
  expect(html).toContain('<ol dir="auto" start="3"><li>three</li>')
  expect(html).toContain("<code>const a = 1 &lt; 2\n</code>")
  expect(html).toContain('<th class="ss-center">a</th>')
  expect(html).toContain('<blockquote dir="auto"><p>quoted</p></blockquote>')
})

const attacks = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "<svg/onload=alert(1)>",
  "text <b onclick=alert(1)>bold</b>",
  "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
  "[x](javascript:alert(1))",
  "[x](JaVaScRiPt:alert(1))",
  "[x](java\tscript:alert(1))",
  "[x](&#106;avascript:alert(1))",
  "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
  "[x](vbscript:msgbox(1))",
  "[x](file:///etc/passwd)",
  "[x](//example.org/no-scheme)",
  "<javascript:alert(1)>",
  "![x](https://example.org/tracker.png)",
  "![x](data:image/svg+xml;base64,PHN2Zy8+)",
  "![x](javascript:alert(1))",
  "[a]: javascript:alert(1)\n\n[a]",
  '[x](https://example.org "onmouseover=alert(1)")',
  '[x](https://example.org/"onmouseover="alert(1))',
  "```html\n<script>alert(1)</script>\n```",
  '```"><script>alert(1)</script>\nx\n```',
]

test.each(attacks)("nothing runs, loads or leads astray: %s", attack => {
  for (const html of [render(attack), render(attack, true)]) {
    const elements = html.replace(
      /<(\/?)(p|br|a|code|pre|figure|button type="button"|button|figcaption|span|strong|em)\b[^<>]*>/g,
      "",
    )
    expect(elements).not.toContain("<")
    for (const [, address] of html.matchAll(/(?:href|src)="([^"]*)"/g))
      expect(address).toMatch(/^https:\/\/example\.org/)
    expect(html).not.toMatch(/<[^>]*\s(on\w+|src|srcdoc|style)=/i)
  }
})

test("an image is a link that the reader may follow, and nothing that loads", () => {
  const html = render("![a cat](https://example.org/cat.png)")
  expect(html).toContain('<a href="https://example.org/cat.png"')
  expect(html).toContain("a cat</a>")
  expect(html).not.toContain("<img")
})

test("only addresses that are written out become links", () => {
  const html = render("See https://example.org/x, setup.py, www.example.org and a@b.org")
  expect([...html.matchAll(/<a /g)]).toHaveLength(1)
})

const hostile = {
  quotes: "> ".repeat(50_000),
  lists: "- ".repeat(20_000),
  brackets: "[".repeat(50_000),
  links: "[a](".repeat(25_000),
  stars: "*a **a ".repeat(15_000),
  ticks: Array.from({ length: 400 }, (_, length) => "`".repeat(length + 1)).join("a "),
  deepLists: Array.from({ length: 300 }, (_, depth) => `${" ".repeat(depth * 2)}- a`).join("\n"),
  spaces: `a${" ".repeat(100_000)}b`,
  lines: `${"\n".repeat(100_000)}end`,
  nul: "a\u0000b \ud800 \u2028 \u202e end",
}

test.each(Object.entries(hostile))("hostile text is shown like any other: %s", (_, text) => {
  expect(render(text).length).toBeGreaterThan(0)
  expect(render(text, true).length).toBeGreaterThan(0)
})

const sample = [
  "# One\n\nA *paragraph* with\ntwo lines.\n\n- a\n- b\n\n  still b\n\n1. x\n2. y\n\n",
  "```py\nprint('**no**')\n\n# not a heading\n```\n\nSetext\n===\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> q\n> r\n\nEnd.",
].join("")

test("text that arrives piece by piece ends up as the same elements as in one piece", () => {
  for (const step of [1, 3, 17]) {
    const reader = new MarkdownReader()
    for (let end = step; end < sample.length; end += step) reader.read(sample.slice(0, end), true)
    const tags = (blocks: ReturnType<MarkdownReader["read"]>) =>
      blocks.map(({ line, tokens }) => [line, tokens.map(({ type, content }) => [type, content])])
    expect(tags(reader.read(sample, true))).toEqual(tags(new MarkdownReader().read(sample, false)))
  }
})

test("blocks that can no longer change keep their identity while the last one grows", () => {
  const reader = new MarkdownReader()
  const [first, second] = reader.read("One.\n\nTwo.\n\nThr", true)
  const later = reader.read("One.\n\nTwo.\n\nThree and more", true)
  expect(later[0]).toBe(first)
  expect(later[1]).toBe(second)
})

test("marks that are still open are closed while the text grows", () => {
  expect(render("This is **bol", true)).toBe('<p dir="auto">This is <strong>bol</strong></p>')
  expect(render("Run `npm", true)).toBe('<p dir="auto">Run <code>npm</code></p>')
  expect(render("2 ** 3", true)).toBe('<p dir="auto">2 ** 3</p>')
  expect(render("This is **bol")).toBe('<p dir="auto">This is **bol</p>')
})

test("what is read aloud has no marks", () => {
  expect(toPlainText("# Hi\n\n**Bold** and [link](https://x.org)\n\n- one\n- two\n\n```\ncode\n```")).toBe(
    "Hi\nBold and link\none\ntwo\ncode\n",
  )
})

test("a server renders the whole chat", () => {
  const html = renderToStaticMarkup(<StaffChat staffId="ada" name="Ada" labels={{ send: "Senden" }} />)
  expect(html).toContain('aria-label="Senden"')
  expect(html).toContain("ss-composer")
})

test("half of a link, an image, a table or an emphasis is not shown as its marks while the text grows", () => {
  const growing = (text: string) => render(text, true)
  expect(growing("See [the rain](https://exa")).toBe('<p dir="auto">See the rain</p>')
  expect(growing("See [the ra")).toBe('<p dir="auto">See the ra</p>')
  expect(growing("See ![a map](https://exa")).toBe('<p dir="auto">See a map</p>')
  expect(growing("This is *slan")).toBe('<p dir="auto">This is <em>slan</em></p>')
  expect(growing("This is **")).toBe('<p dir="auto">This is</p>')
  expect(growing("Not ~~tru")).toBe('<p dir="auto">Not <s>tru</s></p>')
  for (const text of [
    "| month | rain |",
    "| month | rain |\n",
    "| month | rain |\n|--",
    "| month | rain |\n|---|-",
  ]) {
    expect(growing(text), text).toContain("<th>rain</th>")
    expect(growing(text), text).not.toContain("|")
  }
  expect(growing("* one\n* tw")).toContain("<li>tw</li>")
  expect(growing("2 * 3")).toBe('<p dir="auto">2 * 3</p>')
})

const growingTexts = [
  "See **the *very* numbers** and [the rain in Bergen](https://example.org/rain_b), ~~not~~ `bryggen`.",
  "***Both*** and _slanted_ and __fat__ and **a `code*` in it** end.",
  "1. It *rains* a lot.\n2. A second one, __so__.\n   * inner **fat** one\n\n* star\n* other *star*",
  "- [x] bought\n- [ ] cooked **well**",
  "| month | **rain** |\n|:------|---------:|\n| May | *106* |\n| Oct | [x](https://x.org) |\n\nEnd.",
  "> A quote of **somebody**.\n> Who goes *on*.",
  "Title\n=====\n\n## A *second* one\n\nText\n\n---\n\nMore.",
  "![a map](https://example.org/map.png) It holds that $a^2 + b_1 = c$, $$x * y$$ and \\(a*b\\).[^1]\n\n[^1]: In *Bergen*.",
  "Before.\n\n```py\nprint('**no**')\n```\n\nAfter ``a ` b`` it.",
  "A line *that goes\non in the next* one, **and\nso on** here.",
]

test.each(growingTexts)("at no character of %j is a mark seen", text => {
  for (let end = 1; end <= text.length; end++) {
    const html = render(text.slice(0, end), true)
    const shown = html
      .replace(/<figure.*?<\/figure>|<code>.*?<\/code>|<span class="ss-math.*?<\/span>/gs, "")
      .replace(/<[^>]*>/g, "\n")
    expect(shown, text.slice(0, end)).not.toMatch(/[*_~`|[\]#$^\\=]|https?:|^(?:[-+>]|&gt;)/m)
  }
  expect(render(text, true)).toBe(render(text))
})

test("what only looks like a mark is text while it grows", () => {
  for (const text of [
    "2 * 3 = 6",
    "2 ** 3",
    "from $5 to $10",
    "snake_case_name",
    "a [b] c",
    "5 - 3",
    "Great!",
    "x = `y`",
  ]) {
    expect(render(text, true), text).toBe(render(text))
  }
})

test("task lists and footnotes", () => {
  const tasks = render("- [x] bought\n- [ ] cooked")
  expect(tasks.match(/<input/g)).toHaveLength(2)
  expect(tasks.match(/checked=""/g)).toHaveLength(1)
  expect(tasks).not.toContain("[x]")
  const note = render("It rains.[^1]\n\n[^1]: In *Bergen*.")
  expect(note).toContain("It rains.<sup>1</sup>")
  expect(note).toContain('<p dir="auto" class="ss-note"><sup>1</sup> In <em>Bergen</em>.</p>')
})

test("formulas keep their source, and prices are no formulas", () => {
  expect(render("So $a^2 + b_1$ is")).toContain('<span class="ss-math" dir="ltr">a^2 + b_1</span>')
  expect(render("$$\nx * y * z\n$$")).toContain(
    '<span class="ss-math ss-math-block" dir="ltr">x * y * z</span>',
  )
  expect(render("\\(a*b*c\\)")).toContain(">a*b*c</span>")
  expect(render("from $5 to $10 a day")).toBe('<p dir="auto">from $5 to $10 a day</p>')
})
