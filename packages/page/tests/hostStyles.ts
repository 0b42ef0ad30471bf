/** What hosts write about bare elements, at its worst: none of it may change how the chat looks. */
export const HOST_STYLES = `
  body { text-align: center; letter-spacing: 3px; word-spacing: 9px; text-transform: uppercase; text-indent: 20px;
    font: italic small-caps 30px/3 serif; color: red; white-space: pre; word-break: break-all; line-break: anywhere;
    hyphens: auto; cursor: help; text-shadow: 0 0 3px red; user-select: none; list-style: square; tab-size: 1;
    text-wrap: nowrap; text-align-last: right; quotes: none; text-underline-offset: 4px; accent-color: red;
    text-rendering: optimizeSpeed; caret-color: red; -webkit-text-stroke: 1px red }
  ul, ol { list-style: none; margin: 0; padding: 0 }
  li { margin: 9px; padding: 3px }
  p { margin: 0; text-align: center; font-size: 30px; line-height: 3; color: red; max-width: 10px }
  h1, h2, h3, h4, h5, h6 { margin: 0; font: inherit; text-transform: uppercase; color: red; letter-spacing: 3px }
  a { color: inherit; text-decoration: none }
  strong { font-weight: 400 } em { font-style: normal } s { text-decoration: none } sup { vertical-align: top }
  code, pre { margin: 0; background: none; font: 30px serif; color: red; white-space: normal }
  table { border: 0; width: 100%; border-spacing: 9px } td, th { border: 0; padding: 0; text-align: center; font-weight: 400 }
  blockquote { margin: 0; padding: 0; border: 0; font-style: italic }
  hr { border: 0; height: 9px; background: red }
  figure, figcaption, article, section, form { margin: 20px; padding: 9px; background: red }
  button { letter-spacing: 3px; text-transform: uppercase; background: red; border: 9px solid red; padding: 20px;
    margin: 9px; min-width: 200px; border-radius: 0; box-shadow: 0 0 9px red }
  textarea, input { border: 9px solid red; padding: 20px; margin: 9px; background: red; min-height: 200px; width: 50%;
    box-shadow: 0 0 9px red; border-radius: 20px; color: red; font: 30px serif }
  span { color: red } small { font-size: 1em }
`
