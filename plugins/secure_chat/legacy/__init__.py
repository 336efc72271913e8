"""The legacy contract `/secure-chat`, and the stages in which it goes over to threads."""
