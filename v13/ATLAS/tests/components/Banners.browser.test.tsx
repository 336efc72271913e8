/** What stands above a conversation when something is wrong, and the way out of it. */
import type { ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";

import { Banners } from "../../src/components/Banners";
import { useSessionView } from "../../src/hooks/useChat";
import type { ChatSession } from "../../src/chat/session";
import { offline, type Offline, waitUntil } from "../chat/offline";

let root: Root;
let place: HTMLElement;
let opened: Offline;

beforeEach(async () => {
  place = document.body.appendChild(document.createElement("div"));
  root = createRoot(place);
  opened = await offline("everyone");
});
afterEach(() => {
  root.unmount();
  place.remove();
  opened.session.close();
});

function Shown({ session }: { readonly session: ChatSession }): ReactNode {
  const view = useSessionView(session);
  const shown = { session, view, changed: false, rotated: true, onCompare: () => undefined };
  return <Banners {...shown} />;
}

test("to begin again fails aloud while the server does not answer, and works when it does", async () => {
  const { session, device, directory } = opened;
  directory.down = 0;
  await device.messenger.distrust();
  // Another tab says that it has found out.
  const tab = new BroadcastChannel(`atlas-chat/${session.wallet}`);
  tab.postMessage("");
  tab.close();
  root.render(<Shown session={session} />);
  await waitUntil(() => place.textContent.includes("Messages go on."));
  const begin = await waitUntil(() =>
    [...place.querySelectorAll("button")].find((one) => one.textContent === "Begin again"),
  );
  begin.click();
  await waitUntil(() => place.textContent.includes("It did not begin again."));
  expect(place.textContent).toContain("The server does not answer. Try again");
  expect(session.view().problem).toBe("state_rolled_back");
  // A start after that, before it was tried again, would publish what was not published.
  expect(await device.messenger.kept("prekeys/unpublished")).toHaveLength(1);
  directory.down = null;
  begin.click();
  await waitUntil(() => session.view().problem === null);
  expect(await device.messenger.kept("prekeys/unpublished")).toHaveLength(0);
});
