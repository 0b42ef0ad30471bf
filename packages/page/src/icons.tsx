/** The page's few icons: one stroke, one size, the colour of the text beside them. */
const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  edit: "M4 20h4L19 9l-4-4L4 16v4zM14 6l4 4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  pin: "M9 4h6l-1 6 3 3H7l3-3-1-6zM12 13v7",
  up: "M7 11v8M7 11l4-7c2 0 2.5 1 2 3l-.7 3H18c1.5 0 2 1.2 1.6 2.5L18 18c-.3 1-1 1.5-2 1.5H7M4 11h3v8H4z",
  down: "M7 13V5M7 13l4 7c2 0 2.5-1 2-3l-.7-3H18c1.5 0 2-1.2 1.6-2.5L18 6c-.3-1-1-1.5-2-1.5H7M4 13h3V5H4z",
  again: "M19 8a8 8 0 1 0 1 6M20 4v5h-5",
  copy: "M9 9h10v11H9zM5 15V4h10",
  why: "M9.5 9a2.6 2.6 0 1 1 3.6 2.4c-.8.4-1.1.9-1.1 1.9M12 17h.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  memory: "M6 4h9l4 4v12H6zM15 4v4h4M9 12h7M9 16h5",
  graph:
    "M6 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM18 10a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM10 20a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM8 6.3l8 1.4M7 8l2.4 8M16.6 9.5l-5.2 6.8",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM20 20l-4.7-4.7",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M18.4 5.6L17 7M7 17l-1.4 1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  undo: "M8 5L4 9l4 4M4 9h10a5.5 5.5 0 0 1 0 11H9",
  key: "M15.5 12a4 4 0 1 0-3.6-2.3L4 17.5V20h3v-2h2v-2h2l1.7-1.6A4 4 0 0 0 15.5 12zM16.5 7.5h.01",
  back: "M15 5l-7 7 7 7",
} as const

export type IconName = keyof typeof PATHS

export function Icon({ name }: { name: IconName }) {
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  )
}
