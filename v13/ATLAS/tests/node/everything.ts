/** The whole protocol as an embedding page takes it: what the bundle's size is measured on. */
export * from "../../src/security/attachments";
export * from "../../src/security/contacts";
export * from "../../src/security/enrolment";
export * from "../../src/security/indexed-db";
export * from "../../src/security/safety";
export * from "../../src/security/secureMessageV2";
export * from "../../src/security/select";
