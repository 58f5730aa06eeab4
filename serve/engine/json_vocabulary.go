package engine

type jsonVocabulary struct{}
