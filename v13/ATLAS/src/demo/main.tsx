/** The demo page: log in, see the conversations, chat. An embedder uses the components as it does. */
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { Demo } from "./Demo";
import "./page.css";

const root = document.getElementById("root");
if (root === null) throw new Error("the page has no element to draw into");
createRoot(root).render(
  <StrictMode>
    <Demo />
  </StrictMode>,
);
